"""Old records go, those of each deployment as it says; what belongs to them goes with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from faaspot_api.domain.model import Filter, RunOptions
from faaspot_api.errors import NotFound
from faaspot_api.services import retention
from faaspot_api.services.retention import DAY, YOUNG
from faaspot_api.store.moments import now
from faaspot_api.store.tables import callback_tries, callbacks, events, executions, logs, reruns
from tests.control_plane import ADMIN, Plane, a_spot, control_plane, failed

HOUR = DAY // 24
TOLD = {"owner": "admin", "url": "https://e.example/", "host": "e.example", "tries": 1}


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path, keep_days=10.0) as plane:
        plane.create()
        yield plane


def ran(plane: Plane, age: int, name: str = "hello", **more: object) -> str:
    """A run that ended so long ago (microseconds)."""
    uuid = plane.run(name)
    request = plane.take()
    plane.start(request)
    plane.finish(request, **more)
    change(plane, uuid, created=now() - age, ended=now() - age)
    return uuid


def change(plane: Plane, uuid: str | None = None, **values: object) -> None:
    """Write into one record, or into all."""
    statement = update(executions).values(**values)
    with plane.store.write() as transaction:
        transaction.execute(statement if uuid is None else statement.where(executions.c.uuid == uuid))


def left(plane: Plane) -> set[str]:
    """The runs that there still are, after a round."""
    plane.passes(1e6)
    return {one.uuid for one in plane.services.executions.list(ADMIN, Filter(kind="run"), 1000, None).items}


def test_what_is_older_than_the_servers_days_goes(plane: Plane) -> None:
    ran(plane, 11 * DAY)
    young = ran(plane, 9 * DAY)
    waiting = plane.run()
    change(plane, waiting, created=now() - 12 * DAY, expires=now() + DAY)
    assert left(plane) == {young, waiting}


def test_a_deployment_says_how_long_and_how_many(plane: Plane) -> None:
    plane.create("long", keep_days=100.0)
    plane.create("short", keep_days=1.0)
    plane.create("few", keep_runs=2)
    plane.create("none", keep_runs=0)
    stay = {ran(plane, 50 * DAY, "long"), ran(plane, DAY // 2, "short")}
    ran(plane, 2 * DAY, "short")
    ran(plane, 11 * DAY, "few")
    ran(plane, 5 * HOUR, "few")
    stay |= {ran(plane, age * HOUR, "few") for age in (2, 3)}
    ran(plane, 2 * HOUR, "none")
    stay.add(ran(plane, YOUNG // 2, "none"))
    assert left(plane) == stay


def test_the_runs_of_a_deleted_deployment_go_by_the_servers_days(plane: Plane) -> None:
    plane.create("gone", keep_days=100.0)
    ran(plane, 11 * DAY, "gone")
    young = ran(plane, 9 * DAY, "gone")
    plane.services.deployments.delete(ADMIN, "gone")
    assert left(plane) == {young}


def test_builds_and_deletions_stay(plane: Plane) -> None:
    plane.create("gone")
    plane.services.deployments.delete(ADMIN, "gone")
    change(plane, created=now() - 99 * DAY, ended=now() - 99 * DAY)
    plane.passes(1e6)
    kinds = {one.kind for one in plane.services.executions.list(ADMIN, Filter(), 1000, None).items}
    assert kinds == {"build", "delete"}


def test_all_that_belongs_to_a_run_goes_with_it(plane: Plane) -> None:
    uuid = ran(plane, 11 * DAY, **failed())
    again = plane.services.reruns.rerun(ADMIN, uuid)
    request = plane.take()
    plane.start(request)
    plane.finish(request)
    change(plane, ended=now() - 11 * DAY)
    with plane.store.write() as transaction:
        transaction.execute(callbacks.insert().values(execution=again, status="delivered", **TOLD))
        transaction.execute(callback_tries.insert().values(execution=again, at=1, ms=1))
    assert left(plane) == set()
    with plane.store.read() as transaction:
        builds = transaction.execute(select(executions.c.uuid)).scalars().all()
        for table in (logs, events):
            rest = select(func.count()).select_from(table).where(table.c.execution.not_in(builds))
            assert transaction.execute(rest).scalar_one() == 0
        for table in (reruns, callbacks, callback_tries):
            assert transaction.execute(select(func.count()).select_from(table)).scalar_one() == 0


def test_an_end_that_is_still_to_be_told_stays(plane: Plane) -> None:
    uuid = ran(plane, 11 * DAY)
    with plane.store.write() as transaction:
        transaction.execute(callbacks.insert().values(execution=uuid, status="pending", due=now() + DAY, **TOLD))
    assert left(plane) == {uuid}


def test_an_idempotency_key_outlives_its_run(plane: Plane) -> None:
    service, options = plane.services.executions, RunOptions(key="k")
    uuid = service.run(ADMIN, "hello", "{}", options).uuid
    request = plane.take()
    plane.start(request)
    plane.finish(request)
    change(plane, ended=now() - 11 * DAY)
    assert left(plane) == set()
    assert service.run_bulk(ADMIN, "hello", ["{}"], options) == [uuid]
    plane.queue.heartbeat(a_spot("127.0.0.1", status="draining"))
    with pytest.raises(NotFound, match=uuid):
        service.run_wait(ADMIN, "hello", "{}", None, options=options)


def test_many_go_in_short_steps_with_room_for_others(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(retention.time, "sleep", pauses.append)
    ids = plane.services.executions.run_bulk(ADMIN, "hello", ["{}"] * 1050)
    change(plane, status="Success", ended=now() - 11 * DAY)
    assert left(plane) == set()
    assert len(pauses) == -(-len(ids) // retention.PART)
    assert all(pause > 0 for pause in pauses)


def test_runs_with_long_values_go_in_shorter_steps(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite takes a while to free them, in which nobody else writes."""
    pauses: list[float] = []
    monkeypatch.setattr(retention.time, "sleep", pauses.append)
    plane.services.executions.run_bulk(ADMIN, "hello", ["{}"] * 12)
    change(plane, status="Success", ended=now() - 11 * DAY, output='"' + "x" * 3 * 1024 * 1024 + '"')
    assert left(plane) == set()
    assert len(pauses) == 12


def test_it_looks_again_only_after_a_while(plane: Plane) -> None:
    assert left(plane) == set()
    ran(plane, 11 * DAY)
    assert plane.services.reconciler._retention.pass_(1e6 + retention.ROUND_SECONDS - 1) == 0
    assert plane.services.reconciler._retention.pass_(1e6 + retention.ROUND_SECONDS) == 1
