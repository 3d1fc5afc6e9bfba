"""`kill -9` at the very places that matter (`contract/failpoints.py`): nothing acknowledged is lost or ends twice."""

from __future__ import annotations

import contextlib
import http.client
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import platforms
from tests.platforms import SETUPS, Answer, Platform, eventually
from tests.receivers import receiving

ECHO = "def main(args, context):\n    return args\n"


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="faaspot-tests-points-", dir="/tmp") as points:
        Path(points).chmod(0o777)  # the parts take their point away under uids of their own
        environ = {"FAASPOT_FAILPOINTS": points, "FAASPOT_CALLBACK_NETWORKS": "127.0.0.0/8"}
        with platforms.platform(SETUPS[0], environ=environ) as running:
            running.deploy("echo", ECHO)
            assert running.run("echo", {"n": 0}).json == {"n": 0}
            yield running


@contextlib.contextmanager
def dies(platform: Platform, point: str) -> Iterator[None]:
    """Whoever comes to the point within the block dies there; one has."""
    file = Path(platform.environ["FAASPOT_FAILPOINTS"]) / point
    file.touch(mode=0o666)
    yield
    eventually(lambda: not file.exists(), 20, f"somebody came to {point}")


def acknowledged(platform: Platform, key: str, args: dict[str, Any]) -> Answer:
    """A background run, asked for again under the same key until it is acknowledged."""

    def ask() -> Answer | None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = platform.call("POST", "deployments/echo/rpc/", args, headers={"Idempotency-Key": key}, timeout=10)
            return answer if answer.status == 200 else None
        return None

    answer: Answer = eventually(ask, 30, "the run is acknowledged")
    return answer


def ends_noted(platform: Platform, execution: str) -> int:
    """How many ends the event log has of it."""
    with contextlib.closing(sqlite3.connect(f"file:{platform.data}/db/faaspot.db?mode=ro", uri=True)) as database:
        found = database.execute("SELECT count(*) FROM events WHERE execution = ? AND what = 'ended'", (execution,))
        count: int = found.fetchone()[0]
        return count


def runs(platform: Platform) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{platform.data}/db/faaspot.db?mode=ro", uri=True)) as database:
        count: int = database.execute("SELECT count(*) FROM executions WHERE kind = 'run'").fetchone()[0]
        return count


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
def test_f6_f7_an_api_killed_around_the_commit_leaves_one_run_under_the_callers_key(
    platform: Platform, point: str
) -> None:
    before = runs(platform)
    with dies(platform, point):
        answer = acknowledged(platform, f"key {point}", {"n": 1})
    record = platform.ended(answer.json, 30)
    assert (record["status"], record["output"]) == ("Success", {"n": 1})
    assert runs(platform) == before + 1
    assert ends_noted(platform, answer.json) == 1


def test_f3_a_wake_up_taken_by_a_worker_that_died_before_its_lease_starts_within_30_seconds(platform: Platform) -> None:
    began = time.monotonic()
    with dies(platform, "after_dequeue"):
        execution = platform.start_run("echo", {"n": 3})
    record = platform.ended(execution, 30)
    assert (record["status"], record["attempt"]) == ("Success", 1)
    assert time.monotonic() - began < 30
    assert ends_noted(platform, execution) == 1


def test_a_recorder_killed_between_commit_and_acknowledgement_records_nothing_twice(platform: Platform) -> None:
    with dies(platform, "before_acknowledge"):
        execution = platform.start_run("echo", {"n": 5})
    assert platform.ended(execution, 30)["status"] == "Success"
    again = platform.start_run("echo", {"n": 6})
    assert platform.ended(again, 30)["status"] == "Success"
    assert [ends_noted(platform, each) for each in (execution, again)] == [1, 1]


def test_f4_a_result_and_a_telling_that_nobody_noted_are_made_again_and_the_run_has_one_end(platform: Platform) -> None:
    """Both are noticed by time alone, so they wait together: a lease that runs out, a claim that does."""
    with receiving() as receiver:
        with dies(platform, "after_told"):
            headers = {"Callback-Url": receiver.url}
            told = platform.call("POST", "deployments/echo/rpc/", {"n": 1}, headers=headers).json
        with dies(platform, "before_report"):
            unheard = platform.start_run("echo", {"n": 4})
        record = platform.ended(unheard, 60)
        assert (record["status"], record["output"], record["attempt"]) == ("Success", {"n": 4}, 2)
        eventually(lambda: len(receiver.of(told)) == 2, 60, "it is told again when the claim has run out")
        assert receiver.told[0].json == receiver.told[1].json
    assert [ends_noted(platform, each) for each in (told, unheard)] == [1, 1]
