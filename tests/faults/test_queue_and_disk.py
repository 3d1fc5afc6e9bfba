"""Redis emptied, frozen, full, read-only, with another password; the disk full; the database held: nothing is lost,
the health check says what it is, and all passes by itself when the fault does (F8 to F11, F13).
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults import faults
from tests.faults.watcher import CODE
from tests.faults.worlds import World, world
from tests.platforms import SETUPS, eventually


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world(SETUPS[0]) as made:
        made.platform.start()
        made.platform.deploy("mark", CODE, memory=64)
        assert made.platform.run("mark", {"n": 1, "s": 0}).json == 1
        yield made
        assert made.platform.stop() == 0


def accepted(made: World, count: int = 20, seconds: float = 0.2) -> list[str]:
    return [made.platform.start_run("mark", {"n": n, "s": seconds}) for n in range(count)]


def end_well(made: World, executions: list[str]) -> None:
    for n, execution in enumerate(executions):
        record = made.platform.ended(execution, 60)
        assert (record["status"], record["output"]) == ("Success", n), record


def health(made: World) -> dict[str, str]:
    """What /readyz says of each part."""
    answer = made.platform.call("GET", "/readyz", token=None)
    found: dict[str, str] = answer.json.get("parts") or {"all": answer.text}
    return found


def well(made: World) -> None:
    eventually(lambda: made.platform.call("GET", "/readyz", token=None).status == 200, 30, "ready again")
    assert made.platform.run("mark", {"n": 2, "s": 0}).json == 2


def test_f8_a_redis_that_comes_back_empty_costs_no_acknowledged_run(made: World) -> None:
    executions = accepted(made, 40)
    faults.empty_redis(made, random.Random(1))
    end_well(made, executions)
    well(made)


def test_f9_a_frozen_redis_holds_no_caller_for_long_and_no_thread_for_ever(made: World) -> None:
    assert made.valkey.process is not None
    answers: list[tuple[int, float]] = []

    def ask() -> None:
        began = time.monotonic()
        answer = made.platform.call("POST", "deployments/mark/rpc/", {"n": 0, "s": 0}, timeout=60)
        answers.append((answer.status, time.monotonic() - began))

    freezing = threading.Thread(target=made.freeze, args=(made.valkey.process.pid, 12.0))
    freezing.start()
    askers = [threading.Thread(target=ask) for _ in range(20)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(60)
    freezing.join()
    assert {status for status, _ in answers} <= {200, 503}
    assert len(answers) == 20
    assert max(seconds for _, seconds in answers) < 12, "its id or 503 while Redis is still frozen"
    well(made)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (faults.fill_redis, "memory|full"),
        (faults.change_password, "password"),
        (faults.make_redis_read_only, "read"),
    ],
)
def test_f10_a_redis_that_refuses_is_named_and_what_was_accepted_ends(
    made: World, fault: Callable[[World, random.Random], None], said: str
) -> None:
    before = accepted(made, 10)
    breaking = threading.Thread(target=fault, args=(made, _longest()))
    breaking.start()
    named = eventually(lambda: (parts := health(made)).get("queue", "ok") != "ok" and parts, 5, "it is said")
    assert any(word in named["queue"].lower() for word in said.split("|")), named
    answer = made.platform.call("POST", "deployments/mark/rpc/", {"n": 10, "s": 0})
    assert answer.status in (200, 503), answer
    breaking.join(30)
    end_well(made, [*before, answer.json] if answer.status == 200 else before)
    well(made)


def _longest() -> random.Random:
    """A chance that always takes the greatest."""
    chance = random.Random()
    chance.uniform = lambda _least, most: most  # type: ignore[method-assign]
    return chance


def test_f11_a_full_disk_is_a_503_and_passes(made: World) -> None:
    if not made.small_disk:
        pytest.skip("needs root: mounts a small disk")
    before = accepted(made, 5)
    breaking = threading.Thread(target=faults.fill_disk, args=(made, _longest()))
    breaking.start()

    def refused() -> bool:
        answer = made.platform.call("POST", "deployments/mark/rpc/", {"n": 0, "s": 0, "more": "x" * 2_000_000})
        assert answer.status in (200, 503), answer
        return answer.status == 503 and answer.json["error_code"] == "storage_full"

    eventually(refused, 5, "503 storage_full")
    breaking.join(30)
    end_well(made, before)
    well(made)
    with contextlib.closing(sqlite3.connect(made.platform.data / "db" / "faaspot.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_f13_a_database_that_another_program_holds_is_waited_for_or_a_503_and_no_end_is_lost(made: World) -> None:
    executions = accepted(made, 10, 0.5)
    path = made.platform.data / "db" / "faaspot.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as database:
        database.execute("BEGIN IMMEDIATE")
        answer = made.platform.call("POST", "deployments/mark/rpc/", {"n": 0, "s": 0}, timeout=30)
        assert (answer.status, "Retry-After" in answer.headers) == (503, True), answer
        database.execute("ROLLBACK")
    end_well(made, executions)
    well(made)
