"""Deployments: create, update, rollback, rename, delete, and what each leaves behind."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from faaspot_api.domain.model import Filter
from faaspot_api.errors import ApiError, Conflict, Forbidden, Invalid, NotFound, TooLarge, Unavailable
from faaspot_api.services.recorder import Recorder
from faaspot_api.store import deployments as rows
from faaspot_runner.contract import QUEUE_BACKGROUND, QUEUE_BUILDS, BuildOutcome, Release, RunRequest
from faaspot_runner.seal import open_sealed
from tests.control_plane import ADMIN, ANN, BOB, EVE, KEY, LOCK, MAIN, Plane, a_spot, change, control_plane, failed

OTHER = "def main(args, context):\n    return 2\n"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path) as plane:
        yield plane


def _get(plane: Plane, name: str = "hello") -> Any:
    return plane.services.deployments.get(ADMIN, name)


def _refused(plane: Plane, name: str = "hello", **said: Any) -> ApiError:
    """The refusal of a create, which must leave nothing behind."""
    with pytest.raises(ApiError) as caught:
        plane.services.deployments.create(ADMIN, name, change(**said))
    assert plane.services.deployments.list(ADMIN) == ()
    assert plane.services.executions.list(ADMIN, Filter(), 10, None).items == ()
    assert plane.blob_files() == set()
    return caught.value


# ---------------------------------------------------------------- create


def test_without_requirements_it_is_ready_at_once(plane: Plane) -> None:
    build = plane.record(plane.create())
    assert (build.kind, build.status, build.name, build.version) == ("build", "Success", "hello", 1)
    assert build.output == '"Version 1 of hello is ready."'
    assert "network none" in plane.log(build.uuid)
    assert plane.queue.take(QUEUE_BUILDS) is None
    deployment = _get(plane)
    assert (deployment.status, deployment.version.number, deployment.build) == ("success", 1, build.uuid)
    assert plane.services.deployments.code(deployment.version) == MAIN
    assert plane.services.deployments.lock(deployment.version) is None


def test_with_requirements_a_build_is_enqueued_and_makes_it_ready(plane: Plane) -> None:
    uuid = plane.create(requirements="Requests >= 2  # why\n\njinja2", python="3.12", sdist=True)
    assert (plane.record(uuid).status, _get(plane).status) == ("Pending", "pending")
    request = plane.take(QUEUE_BUILDS)
    assert (request.requirements, request.python, request.sdist) == ("Requests>=2\njinja2", "3.12", True)
    plane.start(request)
    assert (plane.record(uuid).status, _get(plane).status) == ("Started", "in-progress")
    plane.finish(request, output=None, build=BuildOutcome(lock=LOCK, environment="env"), log="Resolved 2 packages")
    assert plane.record(uuid).output == '"Version 1 of hello is ready."'
    assert plane.log(uuid).startswith("Resolved 2 packages\nVersion 1 of hello is ready. (python 3.12")
    version = _get(plane).version
    assert (version.environment, plane.services.deployments.lock(version)) == ("env", LOCK)
    assert version.requirements == "Requests >= 2  # why\n\njinja2"


def test_the_context_is_sealed_for_the_spots_and_stands_nowhere_else(plane: Plane) -> None:
    plane.create(context='password = "hunter2-secret"')
    version = _get(plane).version
    assert version.context_keys == ("password",)
    sealed = plane.blobs.get(version.context)
    assert open_sealed(KEY.private_bytes_raw(), sealed, version.context_for) == b'{"password":"hunter2-secret"}'
    plane.store.close()
    for path in plane.home.rglob("*"):
        assert not path.is_file() or b"hunter2-secret" not in path.read_bytes(), path
    assert "hunter2-secret" not in repr(_get(plane))


def test_every_bad_field_is_named_and_nothing_is_created(plane: Plane) -> None:
    error = _refused(
        plane, code="def main(a): pass", requirements="-e .\n", context=f"secret {'x' * 10}", memory=-1, timeout=1e9
    )
    assert {one.field for one in error.errors} == {"code", "requirements", "context", "memory", "timeout"}
    assert "xxxxx" not in str(error)


@pytest.mark.parametrize(
    ("said", "field", "code"),
    [
        ({}, "code", "invalid"),
        ({"code": "x = ("}, "code", "invalid"),
        ({"code": MAIN, "python": "2.7"}, "python", "invalid"),
        ({"code": MAIN, "runtime": "docker"}, "runtime", "runtime_unavailable"),
        ({"code": MAIN, "network": "internet"}, "network", "network_unavailable"),
        ({"code": MAIN, "memory": 64, "tmp": 100}, "tmp", "invalid"),
    ],
)
def test_what_cannot_be_is_a_400_with_its_field(plane: Plane, said: dict[str, Any], field: str, code: str) -> None:
    error = _refused(plane, **said)
    assert (error.status, error.code) == (400, code)
    assert [one.field for one in error.errors] == [field]


def test_too_much_is_a_413(plane: Plane) -> None:
    assert isinstance(_refused(plane, code=MAIN, context="a=" + "x" * 300_000), TooLarge)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "-rf", "a" * 64, "a\0"])
def test_a_bad_name_is_refused(plane: Plane, name: str) -> None:
    assert _refused(plane, name, code=MAIN).errors[0].field == "name"


def test_a_name_that_is_taken_is_refused_and_its_blobs_stay(plane: Plane) -> None:
    plane.create()
    before = plane.blob_files()
    with pytest.raises(Conflict) as caught:
        plane.create(code=OTHER, context="a=1")
    assert caught.value.code == "exists"
    assert plane.blob_files() == before


def test_of_fifty_that_create_the_same_name_one_succeeds_and_nothing_is_half_created(plane: Plane) -> None:
    def attempt(number: int) -> str:
        try:
            return plane.create(code=f"{MAIN}# {number}\n", context=f"n={number}")
        except Conflict as error:
            return error.code

    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(attempt, range(50)))
    assert sorted(results)[1:] == ["exists"] * 49
    assert len(plane.services.executions.list(ADMIN, Filter(), 100, None).items) == 1
    version = _get(plane).version
    assert plane.blob_files() == {version.code, version.context}


def test_the_network_is_what_a_spot_offers_when_it_is_created(plane: Plane) -> None:
    plane.create("before")
    plane.queue.heartbeat(a_spot("127.0.0.2", networks=("none", "internet")))
    plane.create("after")
    plane.create("asked", network="none")
    networks = {one.name: one.version.settings.network for one in plane.services.deployments.list(ADMIN)}
    assert networks == {"before": "none", "after": "internet", "asked": "none"}


def test_with_no_spot_online_the_defaults_are_taken(plane: Plane) -> None:
    plane.queue.heartbeat(a_spot(), age=60)
    plane.create()
    settings = _get(plane).version.settings
    assert (settings.runtime, settings.network) == ("sandbox", "none")
    assert settings.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(Invalid, match="no spot is online"):
        plane.create("other", python="3.99")


def test_with_the_queue_away_a_create_says_so_and_leaves_nothing(plane: Plane) -> None:
    plane.queue.away = "killed"
    with pytest.raises(Unavailable):
        plane.create()
    plane.queue.away = None
    assert plane.services.deployments.list(ADMIN) == ()


# ---------------------------------------------------------------- update


def test_what_is_not_said_stays(plane: Plane) -> None:
    plane.create(requirements="requests", context="a=1", timeout=5.0, memory=128)
    plane.build()
    plane.update(code=OTHER)
    version = _get(plane).version
    assert (version.number, version.requirements, version.context_keys) == (2, "requests", ("a",))
    assert (version.settings.timeout, version.settings.memory) == (5.0, 128)
    assert plane.services.deployments.code(version) == OTHER


@pytest.mark.parametrize(
    "said", [{"code": OTHER}, {"context": "b=2"}, {"timeout": 7.0}, {"requirements": "requests # again"}]
)
def test_what_does_not_change_the_environment_is_not_built_again(plane: Plane, said: dict[str, Any]) -> None:
    plane.create(requirements="requests")
    plane.build()
    build = plane.record(plane.update(**said))
    assert build.status == "Success"
    assert "nothing has to be installed" in plane.log(build.uuid)
    assert plane.queue.take(QUEUE_BUILDS) is None
    version = _get(plane).version
    assert (version.number, version.environment, version.status) == (2, "env-1", "success")


@pytest.mark.parametrize("said", [{"requirements": "flask"}, {"python": "3.12"}, {"sdist": True}])
def test_what_changes_the_environment_is_built_while_the_old_version_runs(plane: Plane, said: dict[str, Any]) -> None:
    plane.create(requirements="requests")
    plane.build()
    first = _get(plane).version.id
    plane.update(**said)
    assert (_get(plane).version.number, _get(plane).status) == (1, "pending")
    plane.run()
    assert plane.take().sandbox.version == 1
    plane.build(build=BuildOutcome(lock=LOCK, environment="env-2"))
    assert (_get(plane).version.number, _get(plane).version.environment) == (2, "env-2")
    assert plane.queue.released[-1] == Release(version_ids=(first,))


def test_taking_the_requirements_away_needs_no_build(plane: Plane) -> None:
    plane.create(requirements="requests")
    plane.build()
    plane.update(requirements="")
    assert (_get(plane).version.number, _get(plane).version.environment) == (2, None)


def test_a_failed_update_leaves_the_old_version_running_and_says_why(plane: Plane) -> None:
    plane.create()
    uuid = plane.update(requirements="no-such-package")
    plane.build(**failed("build_failed", "no-such-package was not found in the index"), build=None)
    deployment = _get(plane)
    assert (deployment.version.number, deployment.status, deployment.reason) == (1, "failed", "build_failed")
    assert deployment.build == uuid
    assert plane.record(uuid).output == '"no-such-package was not found in the index"'
    plane.run()
    assert plane.take().sandbox.version == 1


def test_the_next_update_builds_on_the_newest_version(plane: Plane) -> None:
    plane.create()
    plane.update(code=OTHER, requirements="requests")
    plane.update(context="b=2")
    request = plane.take(QUEUE_BUILDS)
    assert request.version == 2
    assert plane.take(QUEUE_BUILDS).requirements == "requests"
    newest = plane.services.deployments.version(ADMIN, "hello", 3)
    assert plane.services.deployments.code(newest) == OTHER


def test_of_two_builds_the_newer_version_wins_whichever_ends_last(plane: Plane) -> None:
    plane.create()
    plane.update(requirements="requests")
    plane.update(requirements="flask")
    second, third = plane.take(QUEUE_BUILDS), plane.take(QUEUE_BUILDS)
    plane.start(third)
    plane.finish(third, build=BuildOutcome(lock=LOCK, environment="three"))
    plane.start(second)
    plane.finish(second, build=BuildOutcome(lock=LOCK, environment="two"))
    assert _get(plane).version.number == 3


def test_a_context_that_is_kept_keeps_the_id_it_was_sealed_for(plane: Plane) -> None:
    plane.create(context="a=1")
    first = _get(plane).version
    plane.update(code=OTHER)
    plane.run()
    spec = plane.take().sandbox
    assert (spec.context, spec.context_for) == (first.context, first.id)
    assert spec.version_id != first.id
    plane.update(context="")
    plane.run()
    assert plane.take().sandbox.context is None


def test_updates_in_parallel_lose_nothing(plane: Plane) -> None:
    plane.create()
    said: list[dict[str, Any]] = [{"memory": 128}, {"timeout": 9.0}, {"context": "a=1"}, {"code": OTHER}, {"pids": 9}]
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda one: plane.update(**one), said))
    version = _get(plane).version
    assert version.number == 6
    assert (version.settings.memory, version.settings.timeout, version.settings.pids) == (128, 9.0, 9)
    assert (version.context_keys, plane.services.deployments.code(version)) == (("a",), OTHER)


def test_an_update_of_nothing_is_a_success_that_says_so(plane: Plane) -> None:
    plane.create()
    build = plane.record(plane.update())
    assert (build.status, build.output) == ("Success", '"Nothing to change in hello."')
    assert _get(plane).version.number == 1


def test_a_bad_update_changes_nothing(plane: Plane) -> None:
    plane.create()
    before = plane.blob_files()
    with pytest.raises(Invalid):
        plane.update(code="x = (", context="a=1")
    assert _get(plane).version.number == 1
    assert plane.blob_files() == before


# ---------------------------------------------------------------- rename, rollback


def test_a_rename_keeps_everything_but_the_name(plane: Plane) -> None:
    plane.create()
    build = plane.record(plane.update(name="bye"))
    assert (build.status, build.output) == ("Success", '"hello is now bye."')
    assert _get(plane, "bye").version.number == 1
    with pytest.raises(NotFound):
        _get(plane)
    plane.create("hello")


def test_a_rename_to_a_taken_name_changes_nothing(plane: Plane) -> None:
    plane.create()
    plane.create("bye")
    for said in ({"name": "bye"}, {"name": "bye", "code": OTHER}):
        with pytest.raises(Conflict) as caught:
            plane.update(**said)
        assert caught.value.code == "exists"
    with pytest.raises(Invalid):
        plane.update(name="../x")
    assert _get(plane).version.number == 1


def test_a_rename_may_come_with_a_change(plane: Plane) -> None:
    plane.create()
    plane.update(name="bye", code=OTHER)
    assert _get(plane, "bye").version.number == 2


def test_a_rollback_makes_an_old_version_current_without_a_build(plane: Plane) -> None:
    plane.create()
    plane.update(code=OTHER)
    second = _get(plane).version.id
    record = plane.record(plane.services.deployments.rollback(ADMIN, "hello", 1))
    assert (record.kind, record.status, record.version) == ("build", "Success", 1)
    assert plane.services.deployments.code(_get(plane).version) == MAIN
    assert plane.queue.released[-1] == Release(version_ids=(second,))
    plane.update(memory=99)
    newest = _get(plane).version
    assert (newest.number, plane.services.deployments.code(newest)) == (3, MAIN)


def test_a_rollback_stands_against_a_build_that_ends_after_it(plane: Plane) -> None:
    plane.create()
    plane.update(requirements="requests")
    plane.services.deployments.rollback(ADMIN, "hello", 1)
    plane.build()
    assert (_get(plane).version.number, _get(plane).status) == (1, "success")
    assert plane.services.deployments.version(ADMIN, "hello", 2).status == "success"


def test_only_a_version_that_was_ready_can_be_rolled_back_to(plane: Plane) -> None:
    plane.create()
    plane.update(requirements="requests")
    with pytest.raises(Conflict) as caught:
        plane.services.deployments.rollback(ADMIN, "hello", 2)
    assert caught.value.code == "deployment_not_ready"
    for number in (0, -1, 3, 10**30):
        with pytest.raises(NotFound):
            plane.services.deployments.rollback(ADMIN, "hello", number)


# ---------------------------------------------------------------- delete


def test_what_is_deleted_is_gone_and_its_records_stay(plane: Plane) -> None:
    plane.create(context="a=1")
    version = _get(plane).version
    run = plane.run()
    request = plane.take()
    plane.start(request)
    plane.finish(request)
    record = plane.record(plane.services.deployments.delete(ADMIN, "hello"))
    assert (record.kind, record.status, record.version) == ("delete", "Success", None)
    assert plane.record(run).output == "42"
    assert plane.blob_files() == set()
    assert Release(version_ids=(version.id,)) in plane.queue.released
    with pytest.raises(NotFound):
        plane.services.deployments.delete(ADMIN, "hello")


def test_made_again_it_starts_at_version_one(plane: Plane) -> None:
    plane.create()
    plane.update(code=OTHER)
    plane.services.deployments.delete(ADMIN, "hello")
    plane.create()
    assert _get(plane).version.number == 1
    assert len(plane.services.deployments.versions(ADMIN, "hello")) == 1


def test_queued_runs_are_cancelled_and_started_ones_may_end(plane: Plane) -> None:
    plane.create()
    running, queued = plane.run(), plane.run()
    request = plane.take()
    plane.start(request)
    plane.services.deployments.delete(ADMIN, "hello")
    assert (plane.record(queued).status, plane.record(queued).reason) == ("Cancelled", "cancelled")
    assert queued in plane.queue.cancelled
    assert plane.queue.take("background") is None
    assert plane.blob_files(), "a run that goes on may still have to read its code"
    plane.finish(request)
    assert plane.record(running).status == "Success"
    plane.passes(0.0)
    assert plane.blob_files() == set()


def test_a_running_build_and_what_waits_for_it_are_cancelled(plane: Plane) -> None:
    build = plane.create(requirements="requests")
    waiting = plane.run()
    request = plane.take(QUEUE_BUILDS)
    plane.start(request)
    plane.services.deployments.delete(ADMIN, "hello")
    assert [plane.record(uuid).status for uuid in (build, waiting)] == ["Cancelled", "Cancelled"]
    assert {build, waiting} <= plane.queue.cancelled
    plane.finish(request, build=BuildOutcome(lock=LOCK, environment="env"))
    assert plane.record(build).status == "Cancelled"


@pytest.mark.slow
def test_a_delete_with_thousands_of_runs_lets_others_write_meanwhile(plane: Plane) -> None:
    plane.create()
    ids = plane.services.executions.run_bulk(ADMIN, "hello", ["{}"] * 20_000)
    waits: list[float] = []
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            begun = time.monotonic()
            plane.create(f"other-{len(waits)}")
            waits.append(time.monotonic() - begun)

    writing = threading.Thread(target=write)
    writing.start()
    plane.services.deployments.delete(ADMIN, "hello")
    done.set()
    writing.join()
    assert len(waits) > 10
    assert max(waits) < 2.0  # one transaction with all of them would hold them up for longer
    assert plane.queue.take(QUEUE_BACKGROUND) is None
    assert {plane.record(uuid).status for uuid in ids[::500]} == {"Cancelled"}


def test_a_delete_that_was_killed_in_the_middle_is_finished(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    plane.create()
    queued = plane.run()
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "cancel_deployment", _unavailable)
        plane.services.deployments.delete(ADMIN, "hello")
    assert plane.record(queued).status == "Pending"
    plane.passes(0.0)
    assert plane.record(queued).status == "Cancelled"
    assert plane.blob_files() == set()


def _unavailable(*_: object) -> None:
    raise Unavailable("The database is busy.")


def test_blobs_and_environments_that_others_use_stay(plane: Plane) -> None:
    for name in ("hello", "other"):
        plane.create(name, requirements="requests")
        plane.build()
    version = _get(plane, "other").version
    plane.services.deployments.delete(ADMIN, "hello")
    assert plane.blob_files() == {version.code, version.lock}
    assert all("env-1" not in release.environments for release in plane.queue.released)
    plane.services.deployments.delete(ADMIN, "other")
    assert plane.blob_files() == set()
    assert plane.queue.released[-1].environments == ("env-1",)


def test_a_delete_with_the_queue_away_holds_and_is_told_later(plane: Plane) -> None:
    plane.create()
    queued = plane.run()
    plane.queue.away = "killed"
    plane.services.deployments.delete(ADMIN, "hello")
    plane.queue.away = None
    assert plane.record(queued).status == "Cancelled"


# ---------------------------------------------------------------- access


def test_a_deployer_sees_its_own_and_nothing_else(plane: Plane) -> None:
    plane.create("anns", who=ANN)
    plane.create("bobs", who=BOB)
    service = plane.services.deployments
    assert [one.name for one in service.list(ANN)] == ["anns"]
    assert [one.name for one in service.list(ADMIN)] == ["anns", "bobs"]
    unknown = _not_found(lambda: service.get(ANN, "nobodys"))
    calls = [
        lambda: service.get(ANN, "bobs"),
        lambda: service.versions(ANN, "bobs"),
        lambda: service.version(ANN, "bobs", 1),
        lambda: service.update(ANN, "bobs", change(code=OTHER)),
        lambda: service.update(ANN, "bobs", change()),
        lambda: service.rollback(ANN, "bobs", 1),
        lambda: service.delete(ANN, "bobs"),
        lambda: plane.services.executions.run(ANN, "bobs", "{}"),
    ]
    for call in calls:
        assert _not_found(call).replace("bobs", "nobodys") == unknown
    assert _get(plane, "bobs").version.number == 1


def _not_found(call: Any) -> str:
    with pytest.raises(NotFound) as caught:
        call()
    return caught.value.message


def test_an_invoker_sees_and_changes_no_deployment(plane: Plane) -> None:
    plane.create()
    service = plane.services.deployments
    for call in (
        lambda: service.list(EVE),
        lambda: service.get(EVE, "hello"),
        lambda: service.get(EVE, "unknown"),
        lambda: service.create(EVE, "x", change(code=MAIN)),
        lambda: service.update(EVE, "hello", change(code=OTHER)),
        lambda: service.delete(EVE, "hello"),
    ):
        with pytest.raises(Forbidden):
            call()


def test_a_name_taken_by_somebody_else_is_taken(plane: Plane) -> None:
    plane.create(who=BOB)
    with pytest.raises(Conflict):
        plane.create(who=ANN)


@pytest.mark.parametrize("name", ["x' OR '1'='1", "../x", "a\0", "", "x" * 10_000])
def test_a_name_that_cannot_be_is_unknown(plane: Plane, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        plane.services.deployments.get(ADMIN, name)
    assert len(caught.value.message) < 200


def test_a_lost_blob_is_a_503_that_says_what_to_do(plane: Plane) -> None:
    plane.create()
    version = _get(plane).version
    plane.blobs.delete(version.code)
    with pytest.raises(Unavailable, match="Restore"):
        plane.services.deployments.code(version)


def test_a_blob_that_was_cleared_between_is_kept_again(plane: Plane) -> None:
    """The very race of a delete and a create that share their code."""
    plane.create()
    kept = plane.blobs.put

    def put_then_lose(content: bytes) -> str:
        digest = kept(content)
        if not lost:
            lost.append(digest)
            plane.services.deployments.delete(ADMIN, "hello")
        return digest

    lost: list[str] = []
    plane.blobs.put = put_then_lose  # type: ignore[method-assign]
    plane.create("other")
    assert lost[0] in plane.blob_files()


def test_a_run_request_carries_all_that_a_spot_needs(plane: Plane) -> None:
    plane.create(requirements="requests", context="a=1", timeout=9.0, memory=99, pids=9, tmp=9)
    plane.build()
    uuid = plane.run(args={"a": [1, None]})
    request = plane.take()
    assert isinstance(request, RunRequest)
    version = _get(plane).version
    assert (request.execution_id, request.attempt, request.args) == (uuid, 1, '{"a": [1, null]}')
    spec = request.sandbox
    assert (spec.deployment, spec.version, spec.version_id) == ("hello", 1, version.id)
    assert (spec.code, spec.context, spec.lock) == (version.code, version.context, version.lock)
    assert (spec.environment, spec.python, spec.runtime) == ("env-1", "3.11", "sandbox")
    assert (spec.limits.timeout, spec.limits.memory, spec.limits.pids, spec.limits.tmp) == (9.0, 99, 9, 9)
    assert request.expires is not None
    assert replace(request, expires=None).reply is False


def test_the_store_knows_what_is_left_to_clear(plane: Plane) -> None:
    plane.create()
    plane.services.deployments.delete(ADMIN, "hello")
    with plane.store.read() as transaction:
        assert rows.uncleared(transaction) == ()
