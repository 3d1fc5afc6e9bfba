"""The judge of chaos runs sees what it is there for: each kind of broken promise, made by hand."""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.history import Acknowledged, History, Verdict, judge
from tests.faults.watcher import Watcher
from tests.faults.worlds import ATTEMPTS
from tests.platforms import eventually
from tests.receivers import Receiver, Told

UUID = "01a1fd7f-5747-75da-a570-e094f73ae0ed"


class Database:
    """A database as a platform leaves it, with one run that went well."""

    def __init__(self, data: Path) -> None:
        (data / "db").mkdir()
        self._database = sqlite3.connect(data / "db" / "faaspot.db", isolation_level=None)
        self._database.execute("CREATE TABLE executions (uuid, kind, status, reason, output, attempt)")
        self._database.execute("CREATE TABLE events (execution, what)")
        self._database.execute("INSERT INTO executions VALUES (?, 'run', 'Success', NULL, '7', 1)", (UUID,))
        self.note("started")
        self.note("ended")

    def note(self, what: str) -> None:
        self._database.execute("INSERT INTO events VALUES (?, ?)", (UUID, what))

    def change(self, **values: object) -> None:
        for name, value in values.items():
            self._database.execute(f"UPDATE executions SET {name} = ?", (value,))

    def close(self) -> None:
        self._database.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with contextlib.closing(Database(tmp_path)) as made:
        yield made


def verdict(data: Path, history: History, receiver: Receiver | None = None) -> Verdict:
    return judge(data, history, receiver or Receiver(), [], [], 1.0, 1)


def good() -> History:
    history = History()
    history.acknowledged("k", Acknowledged(uuid=UUID, n=7))
    return history


def test_a_good_run_is_no_problem(tmp_path: Path, database: Database) -> None:
    found = verdict(tmp_path, good())
    assert (found.problems, found.accepted, found.ended, found.starts) == ([], 1, {"Success": 1}, 1)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"status": "Started"}, "open"),
        ({"output": "8"}, "wrong"),
        ({"status": "Cancelled", "reason": "cancelled"}, "nobody cancelled it"),
        ({"status": "Failure", "reason": "error"}, "wrong"),
        ({"status": "Failure", "reason": "worker_lost", "attempt": 2}, "at attempt 2"),
        ({"attempt": ATTEMPTS + 1}, "attempts"),
        ({"uuid": "another"}, "has no record"),
    ],
)
def test_a_broken_record_is_seen(tmp_path: Path, database: Database, broken: dict[str, object], said: str) -> None:
    database.change(**broken)
    problems = verdict(tmp_path, good()).problems
    assert any(said in problem for problem in problems), problems


def test_a_second_end_is_seen(tmp_path: Path, database: Database) -> None:
    database.note("ended")
    assert verdict(tmp_path, good()).double_ends == 1


def test_a_caller_who_was_told_something_else_is_seen(tmp_path: Path, database: Database) -> None:
    history = History()
    history.acknowledged("k", Acknowledged(uuid=UUID, n=7, told=9))
    assert any("was told 9" in problem for problem in verdict(tmp_path, history).problems)


def test_a_key_with_two_executions_is_seen() -> None:
    history = good()
    history.acknowledged("k", Acknowledged(uuid="another", n=7))
    assert history.problems


def test_a_receiver_who_was_told_something_else_is_seen(tmp_path: Path, database: Database) -> None:
    body = json.dumps({"data": {"status": "Failure", "reason": "oom"}}).encode()
    receiver = Receiver(told=[Told("/", {"webhook-id": UUID}, body)])
    assert any("the receiver was told" in problem for problem in verdict(tmp_path, good(), receiver).problems)


def _named(name: str) -> None:
    assert ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0) == 0
    time.sleep(60)


def test_two_attempts_that_live_at_once_are_seen_and_one_after_the_other_are_not() -> None:
    start = multiprocessing.get_context("spawn").Process
    first, second, alone = (start(target=_named, args=(f"e094f73ae0e{n}",), daemon=True) for n in ("d-1", "d-2", "e-1"))
    processes = (first, second, alone)
    try:
        for process in processes:
            process.start()
        with Watcher(History()) as watcher:
            eventually(lambda: watcher.overlaps, 20)
            first.kill()
            first.join()
            before = len(watcher.overlaps)
            looked = watcher.history.samples
            eventually(lambda: watcher.history.samples > looked + 3, 10)
        assert len(watcher.overlaps) <= before + 1
        assert all("ae0ed" in text for text in watcher.overlaps)
    finally:
        for process in processes:
            process.kill()
            process.join()
