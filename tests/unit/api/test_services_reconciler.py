"""The reconciler: what the queue has lost is found again, and nothing that is well is touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from faaspot_api.errors import Unavailable
from faaspot_api.services import reconciler
from faaspot_api.store import moments
from faaspot_api.store.tables import executions
from faaspot_runner.contract import QUEUE_BACKGROUND, QUEUE_BUILDS, SUPERVISOR, BuildOutcome, SpotRequest
from tests.control_plane import ADMIN, LOCK, Plane, control_plane, ended, failed, started


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path) as plane:
        plane.create()
        yield plane


LONG = 3600.0


def test_what_was_never_enqueued_is_enqueued_as_it_was(plane: Plane) -> None:
    """The API was killed after its commit, or the queue was away."""
    plane.queue.away = "killed"
    uuid = plane.run(args={"a": 1})
    plane.queue.away = None
    plane.passes(100.0, 101.0)
    assert plane.queue.take(QUEUE_BACKGROUND) is None, "it may only just have been committed"
    plane.passes(104.0)
    request = plane.take()
    assert (request.execution_id, request.attempt, request.args) == (uuid, 1, '{"a": 1}')
    plane.start(request)
    plane.finish(request)
    assert plane.record(uuid).status == "Success"


def test_what_stands_in_the_queue_is_left_alone(plane: Plane) -> None:
    plane.run()
    plane.passes(0.0, LONG)
    plane.take()
    assert plane.queue.take(QUEUE_BACKGROUND) is None


def test_what_runs_under_a_lease_is_left_alone(plane: Plane) -> None:
    uuid = plane.run()
    plane.start(plane.take())
    plane.passes(0.0, LONG, 2 * LONG)
    assert (plane.record(uuid).status, plane.record(uuid).attempt) == ("Started", 1)


def test_what_a_worker_took_and_has_not_yet_reported_is_left_alone(plane: Plane) -> None:
    plane.run()
    assert plane.queue.hold(plane.take())
    plane.passes(0.0, LONG)
    assert plane.queue.take(QUEUE_BACKGROUND) is None


def test_an_end_on_its_way_is_waited_for(plane: Plane) -> None:
    uuid = plane.run()
    request = plane.take()
    plane.start(request)
    plane.queue.finish(request, ended(request))
    plane.passes(0.0, LONG)
    plane.record_events()
    assert (plane.record(uuid).status, plane.record(uuid).attempt) == ("Success", 1)


def test_a_wake_up_that_was_taken_and_lost_is_said_again(plane: Plane) -> None:
    """A worker was killed between the queue and the lease."""
    uuid = plane.run()
    first = plane.take()
    plane.passes(0.0, 4.0)
    assert plane.take() == replace(first, committed=0.0, queued=0.0)
    assert plane.record(uuid).attempt == 1


def test_it_is_said_again_only_after_another_doubt(plane: Plane) -> None:
    plane.run()
    plane.take()
    plane.passes(0.0, 4.0)
    plane.take()
    plane.passes(5.0, 6.0)
    assert plane.queue.take(QUEUE_BACKGROUND) is None
    plane.passes(9.0)
    plane.take()


def test_a_server_that_comes_back_empty_loses_no_acknowledged_execution(plane: Plane) -> None:
    ids = [plane.run() for _ in range(5)]
    running = plane.take()
    plane.start(running)
    build = plane.create("built", requirements="requests")
    waiting = plane.run("built")
    plane.queue.lose_everything()
    plane.passes(0.0, 4.0, 11.0)
    for _ in ids:
        request = plane.take()
        plane.start(request)
        plane.finish(request)
    plane.build()
    last = plane.take()
    plane.start(last)
    plane.finish(last)
    assert [plane.record(uuid).status for uuid in [*ids, build, waiting]] == ["Success"] * 7
    assert plane.record(running.execution_id).attempt == 2


def test_a_lost_worker_costs_an_attempt_and_its_late_report_counts_no_more(plane: Plane) -> None:
    uuid = plane.run()
    first = plane.take()
    plane.start(first)
    plane.queue.expire(first)
    plane.passes(0.0, 9.0)
    assert plane.record(uuid).attempt == 1, "the lease may have been missed by a moment"
    plane.passes(11.0)
    assert (plane.record(uuid).status, plane.record(uuid).attempt) == ("Pending", 2)
    assert uuid not in plane.queue.cancelled, "a cancel is of the execution: it would end the next attempt"
    second = plane.take()
    assert second.token != first.token
    plane.services.recorder.apply([ended(first, output='"late"')])
    assert plane.record(uuid).status == "Pending"
    plane.start(second)
    plane.finish(second)
    assert plane.record(uuid).output == "42"


def test_what_a_spot_has_lost_is_to_go_to_another_one_and_what_a_function_has_failed_is_not(plane: Plane) -> None:
    """A spot that can start nothing is always free: it would take every attempt."""
    plane.run()
    first = plane.take()
    assert first.avoid is None
    plane.start(first)
    plane.queue.expire(first)
    plane.passes(0.0, 11.0)
    assert plane.take().avoid == "127.0.0.1"
    plane.create("flaky", retries=2, retry_on=("error",))
    plane.run("flaky")
    second = plane.take()
    plane.start(second)
    plane.finish(second, **failed())
    plane.passes(12.0, LONG)
    again = plane.take()
    while again.execution_id != second.execution_id:
        again = plane.take()
    assert (again.attempt, again.avoid) == (2, None)


def test_when_no_attempt_is_left_it_ends_as_worker_lost(plane: Plane) -> None:
    uuid = plane.run()
    for moment in (0.0, 100.0):
        request = plane.take()
        plane.start(request)
        plane.queue.expire(request)
        plane.passes(moment, moment + 11)
    record = plane.record(uuid)
    assert (record.status, record.reason, record.attempt) == ("Failure", "worker_lost", 2)
    assert plane.queue.take(QUEUE_BACKGROUND) is None
    assert uuid in plane.queue.cancelled, "an orphan that still runs is to be killed"


def test_a_lost_build_is_tried_again_and_then_fails_with_what_waits(plane: Plane) -> None:
    build = plane.create("built", requirements="requests")
    waiting = plane.run("built")
    for moment in (0.0, 100.0):
        request = plane.take(QUEUE_BUILDS)
        plane.start(request)
        plane.queue.expire(request)
        plane.passes(moment, moment + 11)
    assert [plane.record(uuid).reason for uuid in (build, waiting)] == ["worker_lost", "build_failed"]


def test_a_lost_worker_of_a_cancelled_run_ends_it_cancelled(plane: Plane) -> None:
    uuid = plane.run()
    request = plane.take()
    plane.start(request)
    plane.services.executions.cancel(ADMIN, uuid)
    plane.queue.cancelled.clear()
    plane.passes(0.0)
    assert uuid in plane.queue.cancelled, "the worker may not have heard of it"
    plane.queue.expire(request)
    plane.passes(1.0, 12.0)
    assert (plane.record(uuid).status, plane.record(uuid).attempt) == ("Cancelled", 1)


def test_what_waits_for_too_long_ends_as_no_spot(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    uuid = plane.run()
    _at(monkeypatch, 86_400 + 1)
    plane.passes(0.0)
    record = plane.record(uuid)
    assert (record.status, record.reason) == ("Failure", "no_spot")
    assert plane.queue.take(QUEUE_BACKGROUND) is None


def test_a_build_that_waits_for_too_long_takes_its_runs_along(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    build = plane.create("built", requirements="requests")
    waiting = plane.run("built")
    _at(monkeypatch, 86_400 + 10)
    plane.passes(0.0)
    assert plane.record(build).reason == "no_spot"
    assert plane.record(waiting).status == "Failure"


@pytest.mark.parametrize("hours", [1, -1])
def test_a_jump_of_the_clock_sets_nothing_in_motion(plane: Plane, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    waiting, running = plane.run(), plane.run()
    plane.take()
    plane.run()
    request = plane.take()
    plane.start(request)
    _at(monkeypatch, hours * 3600)
    plane.passes(0.0, 1.0)
    assert [plane.record(uuid).status for uuid in (waiting, running)] == ["Pending", "Started"]
    assert plane.record(running).attempt == 1


def _at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the machine's clock be off by so much for the reconciler."""
    monkeypatch.setattr(reconciler, "now", lambda: moments.now() + int(seconds * moments.SECOND))


def test_runs_whose_build_has_ended_without_them_go_on(plane: Plane) -> None:
    build = plane.create("built", requirements="requests")
    plane.build()
    uuid = plane.run("built")
    plane.take()
    _wait_for(plane, uuid, build)
    plane.passes(0.0)
    assert plane.take().execution_id == uuid


def test_runs_whose_build_has_failed_without_them_end(plane: Plane) -> None:
    build = plane.create("built", requirements="requests")
    uuid = plane.run("built")
    plane.services.executions.cancel(ADMIN, build)
    late = plane.run()
    _wait_for(plane, late, build)
    plane.passes(0.0)
    assert [plane.record(one).reason for one in (uuid, late)] == ["build_failed", "build_failed"]


def _wait_for(plane: Plane, uuid: str, build: str) -> None:
    """What no path of the code leaves behind."""
    with plane.store.write() as transaction:
        transaction.execute(update(executions).where(executions.c.uuid == uuid).values(waits_for=build))


def test_a_request_to_the_supervisor_that_was_lost_is_said_again(plane: Plane) -> None:
    uuid = plane.services.spots.add(ADMIN)
    plane.queue.lose_everything()
    plane.passes(0.0, 4.0)
    request = plane.take(SUPERVISOR)
    assert isinstance(request, SpotRequest)
    assert (request.execution_id, request.action, request.ip) == (uuid, "add", None)


def test_a_supervisor_that_was_lost_in_the_middle_is_no_reason_to_add_two_spots(plane: Plane) -> None:
    uuid = plane.services.spots.add(ADMIN)
    request = plane.take(SUPERVISOR)
    plane.queue.hold(request)
    plane.services.recorder.apply([started(request)])
    plane.queue.expire(request)
    plane.passes(0.0, 11.0)
    assert (plane.record(uuid).status, plane.record(uuid).reason) == ("Failure", "worker_lost")


def test_a_lost_attempt_of_a_deleted_deployment_ends(plane: Plane) -> None:
    uuid = plane.run()
    request = plane.take()
    plane.start(request)
    plane.services.deployments.delete(ADMIN, "hello")
    plane.finish(request, **failed("worker_lost"))
    plane.passes(0.0, 4.0)
    assert plane.record(uuid).status == "Cancelled"
    plane.passes(5.0)
    assert plane.blob_files() == set()


def test_with_the_queue_away_a_pass_fails_and_the_next_one_goes_on(plane: Plane) -> None:
    uuid = plane.run()
    plane.take()
    plane.queue.away = "killed"
    with pytest.raises(Unavailable):
        plane.passes(0.0)
    plane.queue.away = None
    plane.passes(1.0, 5.0)
    assert plane.take().execution_id == uuid


def test_the_spots_are_told_now_and_then_what_is_needed(plane: Plane) -> None:
    for name in ("one", "two"):
        plane.create(name, requirements="requests")
        plane.build(build=BuildOutcome(lock=LOCK, environment=f"env-{name}"))
    run = plane.run("two")
    request = plane.take()
    plane.start(request)
    plane.services.deployments.delete(ADMIN, "two")
    plane.passes(0.0, 59.0)
    assert plane.queue.needed is None, "reports of builds may still be on their way"
    plane.passes(61.0)
    assert plane.queue.needed == ("env-one", "env-two"), "the run that goes on may have to read it"
    plane.finish(request)
    assert plane.record(run).status == "Success"
    plane.services.deployments.delete(ADMIN, "one")
    plane.passes(62.0, 63.0)
    assert plane.queue.needed == ("env-one", "env-two")
    plane.passes(123.0)
    assert plane.queue.needed == ()


def test_two_reconcilers_do_no_harm(plane: Plane) -> None:
    uuid = plane.run()
    request = plane.take()
    plane.start(request)
    plane.queue.expire(request)
    other = reconciler.Reconciler(
        plane.store,
        plane.queue,
        plane.services.recorder,
        plane.services.reconciler._clearing,
        plane.services.reconciler._policy,
        plane.services.metrics,
    )
    for moment in (0.0, 11.0):
        plane.passes(moment)
        other.pass_(moment)
    assert plane.record(uuid).attempt == 2
    plane.take()
    assert plane.queue.take(QUEUE_BACKGROUND) is None


def test_thousands_are_found_again(plane: Plane) -> None:
    ids = plane.services.executions.run_bulk(ADMIN, "hello", ["{}"] * 2500)
    plane.queue.lose_everything()
    plane.passes(0.0, 4.0)
    assert {plane.take().execution_id for _ in ids} == set(ids)
