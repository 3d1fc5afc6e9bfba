"""The recorder: idempotent, exact about who speaks, and complete about what it keeps."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from faaspot_api.domain.model import Filter
from faaspot_api.store import executions, logs, pauses
from faaspot_api.store.moments import SECOND
from faaspot_runner.contract import (
    MAX_ERROR_BYTES,
    MAX_LOG_BYTES,
    QUEUE_BUILDS,
    Error,
    Marks,
    RunEnded,
    Timings,
    Usage,
    dump,
    load,
)
from tests.control_plane import ADMIN, Plane, control_plane, ended, failed, started
from tests.platforms import eventually


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path) as plane:
        plane.create()
        yield plane


def _apply(plane: Plane, *events: Any) -> None:
    plane.services.recorder.apply(list(events))


def test_a_run_is_recorded_whole(plane: Plane) -> None:
    uuid = plane.run()
    request = plane.take()
    marks = Marks(committed=0.5, taken=1.5)
    timings = Timings(queue_ms=1.5, start_ms=2.0, run_ms=3.0, total_ms=6.5, cold=False, marks=marks)
    _apply(plane, started(request), ended(request, timings=timings, usage=Usage(max_memory_mb=12.5, cpu_ms=2.0)))
    record = plane.record(uuid)
    assert (record.status, record.reason, record.output, record.error) == ("Success", None, "42", None)
    assert (record.spot, record.attempt, record.version) == ("127.0.0.1", 1, 1)
    marked = record.timings.pop("marks")
    assert record.timings == {"queue_ms": 1.5, "start_ms": 2.0, "run_ms": 3.0, "total_ms": 6.5, "cold": False}
    assert marked.pop("recorded") > 0
    assert marked == {"committed": 0.5, "taken": 1.5}
    assert record.usage == {"max_memory_mb": 12.5, "cpu_ms": 2.0}
    assert record.started is not None
    assert record.ended is not None
    assert record.created <= record.started <= record.ended


def test_what_happened_is_noted_once_each(plane: Plane) -> None:
    uuid = plane.run()
    request = plane.take()
    for _ in range(3):
        _apply(plane, started(request))
    for _ in range(3):
        _apply(plane, ended(request))
    with plane.store.read() as transaction:
        assert [event.what for event in logs.history(transaction, uuid)] == ["started", "ended"]


def test_an_event_for_nothing_that_is_known_is_passed_over(plane: Plane) -> None:
    uuid = plane.run()
    request = plane.take()
    stranger = replace(ended(request), execution_id="01900000-0000-7000-8000-000000000000")
    _apply(plane, stranger, replace(stranger, execution_id="' OR 1=1"), ended(request))
    assert plane.record(uuid).status == "Success"


@pytest.mark.parametrize("lie", [{"token": "stolen"}, {"attempt": 2}, {"attempt": 0}])
def test_who_has_not_the_attempts_token_is_not_believed(plane: Plane, lie: dict[str, Any]) -> None:
    uuid = plane.run()
    request = plane.take()
    _apply(plane, replace(started(request), **lie), replace(ended(request), **lie))
    assert plane.record(uuid).status == "Pending"


def test_the_first_end_stands(plane: Plane) -> None:
    uuid = plane.run()
    request = plane.take()
    _apply(plane, ended(request), ended(request, **failed()))
    _apply(plane, ended(request, output="43"))
    assert (plane.record(uuid).status, plane.record(uuid).output) == ("Success", "42")


def test_an_order_of_reports_that_makes_no_sense_ends_all_the_same(plane: Plane) -> None:
    uuid = plane.run()
    request = plane.take()
    _apply(plane, ended(request), started(request))
    assert plane.record(uuid).status == "Success"
    assert plane.record(uuid).started is not None


@pytest.mark.parametrize(
    ("said", "status", "reason"),
    [
        ({"status": "Success", "reason": "error"}, "Success", None),
        ({"status": "Failure", "reason": None}, "Failure", "error"),
        ({"status": "Cancelled", "reason": None}, "Cancelled", "cancelled"),
    ],
)
def test_an_end_that_is_not_whole_is_made_whole(plane: Plane, said: dict[str, Any], status: str, reason: str) -> None:
    uuid = plane.run()
    _apply(plane, ended(plane.take(), **said))
    assert (plane.record(uuid).status, plane.record(uuid).reason) == (status, reason)


@pytest.mark.parametrize("status", ["Pending", "Started", "finished", ""])
def test_what_is_no_end_ends_nothing(plane: Plane, status: str) -> None:
    uuid = plane.run()
    _apply(plane, ended(plane.take(), status=status))
    assert plane.record(uuid).status == "Pending"


def test_no_time_goes_backwards_whatever_a_spots_clock_says(plane: Plane) -> None:
    for hours in (-1, 1):
        uuid = plane.run()
        request = plane.take()
        at = time.time() + hours * 3600
        _apply(plane, replace(started(request), at=at), ended(request, at=at - 60))
        record = plane.record(uuid)
        assert record.started is not None
        assert record.ended is not None
        assert record.created <= record.started <= record.ended


@pytest.mark.parametrize(
    ("reason", "error", "line"),
    [
        ("error", Error(type="ValueError", message="first\nsecond"), "ValueError: first"),
        ("error", Error(type="ValueError", message=""), "ValueError:"),
        ("unserialisable", Error(type="TypeError", message="set at [0]"), "TypeError: set at [0]"),
        ("timeout", Error(type="TimeoutError", message="took longer than 5 s"), "took longer than 5 s"),
        ("oom", None, "Failure: oom"),
        (
            "build_failed",
            Error(type="BuildError", message="No solution:\n  because a\n  needs b"),
            "No solution: because a needs b",
        ),
    ],
)
def test_a_failures_output_is_its_error_in_one_line(plane: Plane, reason: str, error: Error | None, line: str) -> None:
    uuid = plane.run()
    _apply(plane, ended(plane.take(), status="Failure", reason=reason, output=None, error=error))
    record = plane.record(uuid)
    assert json.loads(record.output or "") == line
    assert record.error is not None
    assert record.error["message"] or error is not None


def test_what_a_hostile_function_says_is_bounded_and_storable(plane: Plane) -> None:
    uuid = plane.run()
    error = Error(type="E" * 10_000, message="m\0\ud800" * 100_000, traceback="t" * 1_000_000 + "END")
    log = "l\0\ud800" * (MAX_LOG_BYTES // 2)
    _apply(plane, ended(plane.take(), status="Failure", reason="error", output=None, error=error, log=log))
    record = plane.record(uuid)
    assert record.error is not None
    assert len(record.error["message"]) <= MAX_ERROR_BYTES
    assert record.error["traceback"].endswith("END")
    assert record.logs_truncated
    kept = plane.log(uuid)
    assert kept.startswith("l\0")
    assert "[faaspot: log cut here" in kept
    assert len(kept) < MAX_LOG_BYTES + 200


def test_a_log_at_the_limit_is_kept_whole(plane: Plane) -> None:
    uuid = plane.run()
    _apply(plane, ended(plane.take(), log="x" * MAX_LOG_BYTES))
    assert len(plane.log(uuid)) == MAX_LOG_BYTES
    assert not plane.record(uuid).logs_truncated


def test_a_batch_of_many_is_recorded_at_once(plane: Plane) -> None:
    ids = plane.services.executions.run_bulk(ADMIN, "hello", ["{}"] * 1500)
    requests = [plane.take() for _ in ids]
    _apply(plane, *(event for request in requests for event in (started(request), ended(request))))
    assert {one.status for one in plane.services.executions.get_bulk(ADMIN, ids)} == {"Success"}


# ---------------------------------------------------------------- retries


def test_what_the_platform_lost_gets_another_attempt(plane: Plane) -> None:
    uuid = plane.run()
    first = plane.take()
    plane.start(first)
    plane.finish(first, **failed("worker_lost", "the sandbox died"))
    record = plane.record(uuid)
    assert (record.status, record.attempt, record.started, record.spot) == ("Pending", 2, None, None)
    second = plane.take()
    assert (second.attempt, second.sandbox, second.args) == (2, first.sandbox, first.args)
    _apply(plane, started(first), ended(first, output='"late"'))
    assert plane.record(uuid).status == "Pending"
    plane.start(second)
    plane.finish(second)
    assert (plane.record(uuid).output, plane.record(uuid).attempt) == ("42", 2)
    with plane.store.read() as transaction:
        what = [event.what for event in logs.history(transaction, uuid)]
    assert what == ["started", "lost", "started", "ended"]


def test_after_the_last_attempt_it_is_lost_for_good(plane: Plane) -> None:
    uuid = plane.run()
    for _ in range(2):
        request = plane.take()
        plane.start(request)
        plane.finish(request, **failed("worker_lost", "the sandbox died"))
    record = plane.record(uuid)
    assert (record.status, record.reason, record.attempt) == ("Failure", "worker_lost", 2)
    assert record.output == '"the sandbox died"'
    assert plane.queue.take("background") is None


@pytest.mark.parametrize("reason", ["error", "timeout", "oom", "signal", "limit"])
def test_the_functions_own_failures_are_not_tried_again(plane: Plane, reason: str) -> None:
    uuid = plane.run()
    request = plane.take()
    plane.start(request)
    plane.finish(request, **failed(reason))
    assert (plane.record(uuid).status, plane.record(uuid).reason) == ("Failure", reason)


def test_what_a_stop_interrupted_ends_as_that_when_no_attempt_is_left(plane: Plane) -> None:
    uuid = plane.run()
    for _ in range(2):
        request = plane.take()
        plane.start(request)
        plane.finish(request, **failed("interrupted", "The platform was stopped before it had ended.", "Interrupted"))
    record = plane.record(uuid)
    assert (record.status, record.reason, record.attempt) == ("Failure", "interrupted", 2)
    assert record.output == '"The platform was stopped before it had ended."'


def test_a_deployment_that_says_no_retries_starts_once_whatever_happens(plane: Plane) -> None:
    plane.create("once", retries=0)
    uuid = plane.run("once")
    request = plane.take()
    plane.start(request)
    plane.finish(request, **failed("worker_lost", "the sandbox died"))
    assert (plane.record(uuid).reason, plane.record(uuid).attempt) == ("worker_lost", 1)


def test_a_deployment_may_have_its_own_failures_tried_again(plane: Plane) -> None:
    plane.create("flaky", retries=2, retry_on=("error",))
    uuid = plane.run("flaky")
    for reason in ("error", "worker_lost"):
        request = plane.take()
        plane.start(request)
        plane.finish(request, **failed(reason))
        assert plane.record(uuid).status == "Pending"
    last = plane.take()
    assert last.attempt == 3
    plane.start(last)
    plane.finish(last, **failed("error", "still no"))
    record = plane.record(uuid)
    assert (record.reason, record.attempt, record.output) == ("error", 3, '"ValueError: still no"')
    with plane.store.read() as transaction:
        what = [event.what for event in logs.history(transaction, uuid)]
    assert what == ["started", "failed", "started", "lost", "started", "ended"]


def test_only_the_failures_that_were_named_are_tried_again(plane: Plane) -> None:
    plane.create("flaky", retries=2, retry_on=("timeout",))
    uuid = plane.run("flaky")
    request = plane.take()
    plane.start(request)
    plane.finish(request, **failed("error"))
    assert (plane.record(uuid).reason, plane.record(uuid).attempt) == ("error", 1)


def test_what_someone_has_cancelled_is_not_tried_again_for_its_own_failure(plane: Plane) -> None:
    plane.create("flaky", retries=2, retry_on=("error",))
    uuid = plane.run("flaky")
    request = plane.take()
    plane.start(request)
    plane.services.executions.cancel(ADMIN, uuid)
    plane.finish(request, **failed("error"))
    assert (plane.record(uuid).status, plane.record(uuid).attempt) == ("Failure", 1)


def test_the_next_attempt_waits_for_its_pause_and_may_then_wait_as_long_as_the_first(plane: Plane) -> None:
    plane.create("slow", retries=3, retry_backoff=0.2)
    uuid = plane.run("slow")
    first = plane.take()
    plane.start(first)
    plane.finish(first, **failed("worker_lost"))
    assert plane.queue.take("background") is None
    plane.passes(0.0, 100.0)
    assert plane.queue.take("background") is None, "it pauses, so nobody doubts that it has a wake-up"
    eventually(lambda: plane.passes(200.0) or plane.queue.take("background"), 5)
    with plane.store.read() as transaction:
        row = executions.tracked(transaction, [uuid])[uuid]
        assert pauses.every(transaction) == {}
    assert row.expires is not None
    assert row.expires - row.created > first.expires * SECOND - row.created


def test_a_run_that_is_cancelled_while_it_pauses_ends_at_once(plane: Plane) -> None:
    plane.create("slow", retries=3, retry_backoff=60)
    uuid = plane.run("slow")
    request = plane.take()
    plane.start(request)
    plane.finish(request, **failed("worker_lost"))
    assert plane.services.executions.cancel(ADMIN, uuid).status == "Cancelled"


def test_a_build_is_tried_again_too(plane: Plane) -> None:
    uuid = plane.create("built", requirements="requests")
    plane.build(**failed("worker_lost"), build=None)
    assert (plane.record(uuid).status, plane.record(uuid).attempt) == ("Pending", 2)
    assert plane.services.deployments.get(ADMIN, "built").status == "pending"
    plane.build()
    assert plane.services.deployments.get(ADMIN, "built").status == "success"


# ---------------------------------------------------------------- faults


def test_reports_given_again_after_a_failure_lose_nothing(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the database and the acknowledgement, or before the commit: the stream gives them again."""
    uuid = plane.create("built", requirements="requests")
    waiting = plane.run("built")
    request = plane.take(QUEUE_BUILDS)
    plane.start(request)
    event = ended(request, output=None)

    class KilledError(Exception):
        pass

    def killed(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(logs, "keep", killed)
        with pytest.raises(KilledError):
            _apply(plane, event)
    assert (plane.record(uuid).status, plane.record(waiting).status) == ("Started", "Pending")
    _apply(plane, event)
    _apply(plane, event)
    assert plane.record(uuid).status == "Success"
    assert plane.take().execution_id == waiting
    assert plane.queue.take("background") is None


def test_the_queue_being_away_does_not_keep_an_end_from_being_recorded(plane: Plane) -> None:
    uuid = plane.create("built", requirements="requests")
    waiting = plane.run("built")
    request = plane.take(QUEUE_BUILDS)
    plane.queue.away = "killed"
    _apply(plane, ended(request, output=None))
    plane.queue.away = None
    assert plane.record(uuid).status == "Success"
    plane.passes(0.0, 5.0)
    assert plane.take().execution_id == waiting


def test_any_order_of_any_reports_leaves_one_end_each(plane: Plane) -> None:
    """Duplicates, late ones and lies, shuffled over batches; seeded."""
    chance = random.Random(7)
    ids = plane.services.executions.run_bulk(ADMIN, "hello", ["{}"] * 40)
    events: list[Any] = []
    for _ in ids:
        request = plane.take()
        mine: list[Any] = [
            started(request),
            ended(request),
            ended(request, **failed()),
            ended(request, **failed("oom")),
        ]
        mine += [replace(event, token="x") for event in mine]
        events += chance.choices(mine, k=8)
        events += [ended(request, **failed("worker_lost"))] * chance.randint(0, 1)
    chance.shuffle(events)
    first_end: dict[str, str] = {}
    while events:
        batch = [events.pop() for _ in range(min(len(events), chance.randint(1, 30)))]
        _apply(plane, *batch)
        for one in plane.services.executions.get_bulk(ADMIN, ids):
            if one.ended is not None:
                assert first_end.setdefault(one.uuid, f"{one.status} {one.reason}") == f"{one.status} {one.reason}"
    assert first_end


def test_the_reports_of_the_wire_are_taken_as_they_come(plane: Plane) -> None:
    uuid = plane.run()
    event = load(dump(ended(plane.take(), timings=Timings(queue_ms=1.0))))
    assert isinstance(event, RunEnded)
    _apply(plane, event)
    assert plane.record(uuid).timings["queue_ms"] == 1.0
    listed = plane.services.executions.list(ADMIN, Filter(status="Success", ended=False), 10, None)
    assert listed.items[0].uuid == uuid


def test_what_a_sync_caller_has_recorded_is_passed_over_without_a_turn_of_the_writer(plane: Plane) -> None:
    uuid = plane.run()
    request = plane.take()
    _apply(plane, started(request), ended(request))
    before = plane.record(uuid)
    with plane.store.write():  # nobody else can write now: a turn would be waited for in vain
        plane.services.recorder.apply_reported([started(request), ended(request)])
    assert plane.record(uuid) == before


def test_what_is_not_on_record_yet_is_applied(plane: Plane) -> None:
    uuid = plane.run()
    request = plane.take()
    plane.services.recorder.apply_reported([started(request), ended(request)])
    assert plane.record(uuid).status == "Success"
