"""What rests on a database's locks, over SQLite and PostgreSQL: many callers at once, and one outcome."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from faaspot_api.domain.model import Filter, RunOptions
from faaspot_api.errors import ApiError, Conflict, NotFound, Unavailable
from faaspot_api.services import Policy, Services
from faaspot_api.services.callbacks import CallbackSecrets
from faaspot_api.store.engine import Store
from faaspot_runner.contract import QUEUE_BUILDS, BuildOutcome
from faaspot_runner.contract.runtimes import RuntimeDefinition
from tests.control_plane import ADMIN, KEY, LOCK, MAIN, Plane, control_plane, ended, failed
from tests.postgres_servers import BINARIES, MISSING, PostgresServer, running_postgres

pytestmark = pytest.mark.slow
_numbers = itertools.count()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    if BINARIES is None:
        pytest.skip(MISSING)
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def plane(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Plane]:
    url = None
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").create(f"s{next(_numbers)}")
    with control_plane(tmp_path, url) as plane:
        yield plane


def _together(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls made at once, in their order; an error of the API is its code."""

    def call(one: Callable[[], Any]) -> Any:
        try:
            return one()
        except ApiError as error:
            return error.code

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


def test_of_fifty_creates_of_one_name_one_succeeds(plane: Plane) -> None:
    calls = [lambda n=n: plane.create(code=f"{MAIN}# {n}\n", context=f"n={n}") for n in range(50)]
    results = _together(*calls)
    assert sorted(results)[1:] == ["exists"] * 49
    assert len(plane.services.executions.list(ADMIN, Filter(), 100, None).items) == 1
    version = plane.services.deployments.get(ADMIN, "hello").version
    assert plane.blob_files() == {version.code, version.context}


def test_updates_at_once_lose_nothing(plane: Plane) -> None:
    plane.create()
    said: list[dict[str, Any]] = [{"memory": 128}, {"timeout": 9.0}, {"context": "a=1"}, {"pids": 9}, {"tmp": 9}]
    results = _together(*(lambda one=one: plane.update(**one) for one in said))
    assert all(len(uuid) == 36 for uuid in results)
    version = plane.services.deployments.get(ADMIN, "hello").version
    settings = version.settings
    assert (settings.memory, settings.timeout, settings.pids, settings.tmp) == (128, 9.0, 9, 9)
    assert (version.number, version.context_keys) == (6, ("a",))


def test_of_many_runs_under_one_key_at_once_one_is_accepted(plane: Plane) -> None:
    plane.create()
    options = RunOptions(key="k")
    found = _together(*(lambda: plane.services.executions.run(ADMIN, "hello", "{}", options).uuid for _ in range(20)))
    assert len(set(found)) == 1
    assert len(plane.services.executions.list(ADMIN, Filter(kind="run"), 100, None).items) == 1


def test_of_many_who_run_all_failures_again_each_failure_is_taken_once(plane: Plane) -> None:
    plane.create()
    lost = plane.services.executions.run_bulk(ADMIN, "hello", ["{}"] * 20)
    for _ in lost:
        plane.finish(plane.take(), **failed())
    done = _together(*(lambda: plane.services.reruns.rerun_all(ADMIN, Filter(), 30, None).items for _ in range(6)))
    assert sorted(each.of for items in done for each in items) == sorted(lost)


def test_of_many_who_sign_first_all_have_the_same_key(plane: Plane) -> None:
    found = _together(*(lambda: CallbackSecrets(plane.store).of("ann") for _ in range(12)))
    assert len(set(found)) == 1
    assert found[0] == CallbackSecrets(plane.store).of("ann") != CallbackSecrets(plane.store).of("bob")


@pytest.mark.parametrize("succeeds", [True, False])
def test_no_run_that_comes_as_a_build_ends_is_left_waiting(plane: Plane, succeeds: bool) -> None:
    for number in range(8):
        name = f"d{number}"
        plane.create(name, requirements="requests")
        request = plane.take(QUEUE_BUILDS)
        how: dict[str, Any] = (
            {"output": None, "build": BuildOutcome(lock=LOCK, environment="env")}
            if succeeds
            else {"status": "Failure", "reason": "build_failed", "output": None}
        )
        event = ended(request, **how)
        results = _together(
            *(lambda name=name: plane.run(name) for _ in range(6)),
            lambda event=event: plane.services.recorder.apply([event]),
        )
        for uuid in (one for one in results[:6] if one != "deployment_not_ready"):
            if succeeds:
                plane.finish(plane.take())
            else:
                assert plane.record(uuid).reason == "build_failed"
    still_open = plane.services.executions.list(ADMIN, Filter(ended=False), 100, None).items
    assert still_open == ()


def test_no_run_that_comes_with_a_delete_is_left_waiting(plane: Plane) -> None:
    for number in range(8):
        name = f"d{number}"
        plane.create(name)
        delete = lambda name=name: plane.services.deployments.delete(ADMIN, name)  # noqa: E731
        results = _together(*(lambda name=name: plane.run(name) for _ in range(5)), delete)
        assert all(one == "not_found" or len(one) == 36 for one in results)
    assert plane.services.executions.list(ADMIN, Filter(ended=False), 100, None).items == ()
    assert plane.blob_files() == set()


def test_a_delete_and_a_create_that_share_their_code_leave_it_where_it_is_needed(plane: Plane) -> None:
    for _ in range(10):
        plane.create("old")
        _together(lambda: plane.services.deployments.delete(ADMIN, "old"), lambda: plane.create("new"))
        version = plane.services.deployments.get(ADMIN, "new").version
        assert plane.services.deployments.code(version) == MAIN
        plane.services.deployments.delete(ADMIN, "new")
        with pytest.raises(NotFound):
            plane.services.deployments.get(ADMIN, "old")


def test_of_an_end_and_a_cancel_at_once_one_stands(plane: Plane) -> None:
    plane.create()
    for _ in range(10):
        uuid = plane.run()
        event = ended(plane.take())
        results = _together(
            lambda uuid=uuid: plane.services.executions.cancel(ADMIN, uuid).status,
            lambda event=event: plane.services.recorder.apply([event]),
        )
        status = plane.record(uuid).status
        assert (results[0], status) in (("Cancelled", "Cancelled"), ("already_ended", "Success"))


def test_callers_and_the_recorder_who_write_the_same_ends_do_not_wait_for_each_other(plane: Plane) -> None:
    plane.create()
    policy, key = Policy(), KEY.public_key().public_bytes_raw()
    store = Store(plane.store.engine.url.render_as_string(hide_password=False))
    recorder = Services.make(store, plane.blobs, plane.queue, key, policy).recorder
    chance = random.Random(1)
    try:
        for _ in range(3):
            uuids = [plane.run() for _ in range(30)]
            ends = [ended(plane.take()) for _ in uuids]
            calls = [lambda event=event: plane.services.recorder.apply([event]) for event in ends]
            chance.shuffle(calls)
            halves = (ends[:15], ends[15:])
            results = _together(*calls, *(lambda half=half: recorder.apply_reported(half) for half in halves))
            assert "storage_unavailable" not in results
            assert {plane.record(uuid).status for uuid in uuids} == {"Success"}
    finally:
        store.close()


@pytest.mark.parametrize("plane", ["postgres"], indirect=True)
def test_a_server_that_goes_away_and_comes_back_loses_nothing(plane: Plane, request: pytest.FixtureRequest) -> None:
    server: PostgresServer = request.getfixturevalue("postgres")
    plane.create()
    uuid = plane.run()
    event = ended(plane.take())
    server.stop()
    for call in (lambda: plane.run(), lambda: plane.services.recorder.apply([event])):
        with pytest.raises(Unavailable) as caught:
            call()
        assert not isinstance(caught.value, Conflict)
        assert caught.value.retry_after
    server.start()
    plane.services.recorder.apply([event])
    assert plane.record(uuid).status == "Success"


def test_a_runtime_is_either_deleted_or_used_and_never_both(plane: Plane) -> None:
    for number in range(10):
        runtime, deployment = f"r{number}", f"d{number}"
        plane.services.runtimes.create(ADMIN, RuntimeDefinition(name=runtime, type="sandbox"))
        created, deleted = _together(
            lambda r=runtime, d=deployment: plane.create(d, runtime=r),
            lambda r=runtime: plane.services.runtimes.delete(ADMIN, r),
        )
        assert (created == "runtime_unavailable", deleted == "busy") in ((True, False), (False, True))
        there = runtime in [each.name for each in plane.services.runtimes.list(ADMIN)]
        assert there == (deleted == "busy")
