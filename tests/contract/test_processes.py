"""Several API processes on one database, SQLite and PostgreSQL: nothing lost, nothing twice, whoever is first."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from faaspot_api.domain.model import Filter
from faaspot_api.errors import ApiError, Unavailable
from faaspot_api.store import backlog, tables
from faaspot_runner.contract import RunEnded
from tests.control_plane import ADMIN, Plane, control_plane, ended, failed, started
from tests.postgres_servers import BINARIES, MISSING, PostgresServer, running_postgres

pytestmark = pytest.mark.slow
PROCESSES = 4
_numbers = itertools.count()
_plane: Plane
_held = ExitStack()


def begin(home: Path, url: str) -> None:
    """In each process: a control plane of its own on the one database and the one directory of blobs."""
    global _plane
    _plane = _held.enter_context(control_plane(home, url))


def insisting(call: Callable[[], Any]) -> Any:
    """What the call gives, asked again where it is told to; an error of the API is its code."""
    while True:
        try:
            return call()
        except Unavailable:
            continue
        except ApiError as error:
            return error.code


def update(memory: int) -> Any:
    return insisting(lambda: _plane.update(memory=memory))


def accept(count: int) -> list[str]:
    return [insisting(_plane.run) for _ in range(count)]


def create(_: int) -> Any:
    return insisting(_plane.create)


def apply(events: list[RunEnded]) -> None:
    for event in events:
        insisting(lambda event=event: _plane.services.recorder.apply([event]))


def cancel(uuids: list[str]) -> list[Any]:
    return [insisting(lambda uuid=uuid: _plane.services.executions.cancel(ADMIN, uuid).status) for uuid in uuids]


def reconcile(_: int) -> None:
    for moment in (0.0, 11.0, 12.0):
        insisting(lambda moment=moment: _plane.services.reconciler.pass_(moment))


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    if BINARIES is None:
        pytest.skip(MISSING)
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    if request.param == "sqlite":
        return tmp_path, f"sqlite:///{tmp_path / 'faaspot.db'}"
    return tmp_path, request.getfixturevalue("postgres").create(f"p{next(_numbers)}")


@pytest.fixture
def plane(place: tuple[Path, str]) -> Iterator[Plane]:
    with control_plane(*place) as plane:
        yield plane


@pytest.fixture
def pool(plane: Plane, place: tuple[Path, str]) -> Iterator[Pool]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(PROCESSES, begin, place) as pool:
        yield pool
        pool.close()
        pool.join()


def ends(plane: Plane) -> Counter[str]:
    """How many ends were noted of each execution."""
    with plane.store.read() as transaction:
        table = tables.events
        rows = transaction.execute(select(table.c.execution).where(table.c.what == "ended"))
        return Counter(row.execution for row in rows)


def test_of_many_creates_one_succeeds_and_no_update_is_lost(plane: Plane, pool: Pool) -> None:
    results = pool.map(create, range(3 * PROCESSES), chunksize=1)
    assert Counter(result if result == "exists" else "made" for result in results) == {"made": 1, "exists": 11}
    memories = list(range(100, 140))
    made = pool.map(update, memories, chunksize=1)
    assert all(len(uuid) == 36 for uuid in made)
    versions = plane.services.deployments.versions(ADMIN, "hello")
    assert sorted(version.number for version in versions) == list(range(1, len(memories) + 2))
    assert {version.settings.memory for version in versions} >= set(memories)
    newest = max(versions, key=lambda version: version.number)
    assert plane.services.deployments.get(ADMIN, "hello").version == newest


def test_every_accepted_run_has_one_record(plane: Plane, pool: Pool) -> None:
    plane.create()
    uuids = [uuid for accepted in pool.map(accept, [30] * PROCESSES, chunksize=1) for uuid in accepted]
    assert len(set(uuids)) == 30 * PROCESSES
    page = plane.services.executions.list(ADMIN, Filter(status="Pending"), 1000, None)
    assert {record.uuid for record in page.items} == set(uuids)


def test_of_ends_that_race_one_is_recorded_and_stays(plane: Plane, pool: Pool) -> None:
    plane.create()
    uuids = [plane.run() for _ in range(40)]
    requests = [plane.take() for _ in uuids]
    plane.services.recorder.apply([started(request) for request in requests])
    claims = [
        [ended(request, output=str(number)) for request in requests] if number else
        [ended(request, **failed("oom")) for request in requests]
        for number in range(PROCESSES)
    ]  # fmt: skip
    cancelling = pool.map_async(cancel, [uuids[::2], uuids[1::2]], chunksize=1)
    pool.map(apply, claims, chunksize=1)
    cancelling.get(60)
    assert ends(plane) == dict.fromkeys(uuids, 1)
    before = {uuid: plane.record(uuid) for uuid in uuids}
    pool.map(apply, claims, chunksize=1)
    assert {uuid: plane.record(uuid) for uuid in uuids} == before
    assert all(record.status in ("Success", "Failure") for record in before.values())


def test_reconcilers_in_many_processes_make_one_attempt_of_a_lost_one(plane: Plane, pool: Pool) -> None:
    plane.create()
    uuids = [plane.run() for _ in range(10)]
    requests = [plane.take() for _ in uuids]
    plane.services.recorder.apply([started(request) for request in requests])
    pool.map(reconcile, range(PROCESSES), chunksize=1)  # their queues know of no lease
    records = [plane.record(uuid) for uuid in uuids]
    assert {(record.status, record.attempt) for record in records} == {("Pending", 2)}
    late = [replace(ended(request), output='"late"') for request in requests]
    pool.map(apply, [late], chunksize=1)
    assert {plane.record(uuid).status for uuid in uuids} == {"Pending"}
    with plane.store.read() as transaction:
        assert len(backlog.standing(transaction)) == 1
