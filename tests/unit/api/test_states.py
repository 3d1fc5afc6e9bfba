"""The state machine of an execution, move by move."""

from __future__ import annotations

from dataclasses import replace

import pytest

from faaspot_api.domain import states
from faaspot_api.domain.retries import Retries
from faaspot_api.domain.states import End, Report, State
from faaspot_runner.contract import Kind, Reason

NEW = states.pending("run", "t1")
RUNNING = replace(NEW, status="Started")
MINE = Report(attempt=1, token="t1")
DONE = End(status="Success")


def test_a_new_execution_waits_in_its_first_attempt() -> None:
    assert (NEW.status, NEW.attempt, NEW.cancelling) == ("Pending", 1, False)


def test_a_worker_starts_what_waits() -> None:
    assert states.start(NEW, MINE) == RUNNING


@pytest.mark.parametrize("report", [Report(attempt=1, token="other"), Report(attempt=2, token="t1")])
def test_a_report_of_another_attempt_or_token_changes_nothing(report: Report) -> None:
    assert states.start(NEW, report) is None
    assert states.end(RUNNING, report, DONE) is None


def test_a_start_counts_once() -> None:
    assert states.start(RUNNING, MINE) is None


def test_a_running_attempt_ends() -> None:
    ended = states.end(RUNNING, MINE, DONE)
    assert ended is not None
    assert states.is_ended(ended.status)


def test_an_end_whose_start_was_lost_on_the_way_counts() -> None:
    ended = states.end(NEW, MINE, DONE)
    assert ended is not None
    assert ended.status == "Success"


@pytest.mark.parametrize("end", [End(status="Success", reason="error"), End(status="Failure")])
def test_success_has_no_reason_and_every_other_end_has_one(end: End) -> None:
    assert states.end(RUNNING, MINE, end) is None


@pytest.mark.parametrize("status", ["Success", "Failure", "Cancelled"])
def test_what_has_ended_is_never_left(status: str) -> None:
    over = replace(NEW, status=status)  # type: ignore[arg-type]
    assert states.start(over, MINE) is None
    assert states.end(over, MINE, DONE) is None
    assert states.retry(over, "t2") is None
    assert states.cancel(over) is None


def test_a_retry_waits_again_and_no_longer_believes_the_old_attempt() -> None:
    again = states.retry(RUNNING, "t2")
    assert again == State(kind="run", status="Pending", attempt=2, token="t2")
    assert again is not None
    assert states.end(again, MINE, DONE) is None


def test_a_retry_needs_a_token_of_its_own() -> None:
    assert states.retry(RUNNING, "t1") is None


@pytest.mark.parametrize(
    ("kind", "reason", "attempt", "cancelling", "expected"),
    [
        ("run", "worker_lost", 1, False, True),
        ("build", "worker_lost", 2, False, True),
        ("run", "worker_lost", 3, False, False),
        ("run", "worker_lost", 1, True, False),
        ("spot", "worker_lost", 1, False, False),
        ("run", "error", 1, False, False),
        ("run", "timeout", 1, False, False),
        ("run", "interrupted", 1, False, True),
        ("run", "interrupted", 3, False, False),
        ("build", "interrupted", 1, False, True),
        ("run", None, 1, False, False),
    ],
)
def test_only_what_the_platform_lost_is_tried_again(
    kind: Kind, reason: Reason | None, attempt: int, cancelling: bool, expected: bool
) -> None:
    state = State(kind=kind, status="Started", attempt=attempt, token="t", cancelling=cancelling)
    assert states.may_retry(state, reason, Retries(attempts=3)) is expected


def test_what_waits_is_cancelled_at_once_and_what_runs_when_its_worker_obeys() -> None:
    waiting, running = states.cancel(NEW), states.cancel(RUNNING)
    assert waiting is not None
    assert waiting.status == "Cancelled"
    assert running == replace(RUNNING, cancelling=True)
