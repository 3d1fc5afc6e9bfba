"""Runs: accepted, waited for, read, listed, cancelled; who may see which."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from faaspot_api.domain.model import Filter
from faaspot_api.errors import ApiError, Conflict, Invalid, NotFound, Unavailable
from faaspot_api.services import backlog
from faaspot_api.store import executions as rows
from faaspot_runner.contract import QUEUE_BACKGROUND, QUEUE_SYNC, RunRequest
from tests.control_plane import ADMIN, ANN, BOB, EVE, Plane, a_spot, control_plane, ended, failed, started


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path) as plane:
        plane.create()
        yield plane


def gone() -> bool:
    return True


def _refused(call: Callable[[], Any]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value


# ---------------------------------------------------------------- too much


@pytest.mark.parametrize("wait", [None, 5.0])
def test_a_full_queue_is_a_503_and_leaves_no_record(plane: Plane, wait: float | None) -> None:
    plane.queue.full = True
    service = plane.services.executions
    for call in (
        lambda: service.run(ADMIN, "hello", "{}"),
        lambda: service.run_bulk(ADMIN, "hello", ["{}", "{}"]),
        lambda: service.run_wait(ADMIN, "hello", "{}", wait),
    ):
        error = _refused(call)
        assert (error.status, error.code) == (503, "queue_unavailable")
        assert error.retry_after
    assert [one for one in service.list(ADMIN, Filter(), 100, None).items if one.kind == "run"] == []


def test_what_was_accepted_before_the_queue_was_full_starts_when_it_has_room(plane: Plane) -> None:
    uuid = plane.run()
    plane.queue.lose_everything()
    plane.queue.full = True
    plane.passes(0.0, 10.0)
    assert plane.queue.take(QUEUE_BACKGROUND) is None
    plane.queue.full = False
    plane.passes(20.0)
    assert plane.take().execution_id == uuid


def test_the_waiting_runs_of_a_token_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "NEAR_SECONDS", 0.0)
    with control_plane(tmp_path, max_pending=3) as plane:
        plane.create()
        service = plane.services.executions
        error = _refused(lambda: service.run_bulk(ADMIN, "hello", ["{}"] * 4))
        assert (error.status, error.code) == (429, "overloaded")
        assert error.retry_after
        service.run_bulk(ADMIN, "hello", ["{}"] * 3)
        assert _refused(lambda: plane.run()).status == 429
        assert _refused(lambda: service.run_wait(ADMIN, "hello", "{}", 5.0)).status == 429
        assert plane.run(who=EVE), "another token's wait by themselves"
        assert len([one for one in service.list(ADMIN, Filter(), 100, None).items if one.kind == "run"]) == 4

        plane.start(plane.take())
        assert plane.run()
        assert _refused(lambda: plane.run()).status == 429


# ---------------------------------------------------------------- callers who leave


@pytest.mark.parametrize("wait", [None, 900.0])
def test_a_caller_who_has_gone_is_not_waited_for_and_the_run_goes_on(tmp_path: Path, wait: float | None) -> None:
    with control_plane(tmp_path, queueing=600.0) as plane:
        plane.create()
        plane.queue.lose_everything()  # not even a spot: the caller who stays would hear `no_spot`
        begun = time.monotonic()
        execution, over = plane.services.executions.run_wait(ADMIN, "hello", "{}", wait, gone)
        assert time.monotonic() - begun < 10
        assert (over, execution.status) == (False, "Pending")
        assert isinstance(plane.take(QUEUE_SYNC), RunRequest)


def test_a_reader_who_has_gone_is_not_followed_for(plane: Plane) -> None:
    assert list(plane.services.executions.follow(ADMIN, plane.run(), gone)) == []


# ---------------------------------------------------------------- accepting


def test_the_record_is_committed_before_the_answer_and_before_the_wake_up(plane: Plane) -> None:
    seen: list[str] = []
    enqueue = plane.queue.enqueue_run

    def look_first(request: RunRequest, queue: str) -> None:
        with plane.store.read() as transaction:
            record = rows.get(transaction, request.execution_id)
        assert record is not None
        seen.append(record.status)
        enqueue(request, queue)

    plane.queue.enqueue_run = look_first  # type: ignore[method-assign]
    plane.run(args={"a": 1})
    assert seen == ["Pending"]


def test_a_run_carries_how_many_of_its_deployment_may_run_at_once(plane: Plane) -> None:
    plane.run()
    assert plane.take().concurrency == 0
    plane.create("few", concurrency=1)
    ids = [plane.run("few") for _ in range(2)]
    first = plane.take()
    assert (first.execution_id, first.concurrency) == (ids[0], 1)
    assert plane.queue.take(QUEUE_BACKGROUND) is None
    plane.finish(first)
    plane.queue.lose_everything()
    plane.passes(0.0, 4.0)
    assert {plane.take().concurrency for _ in range(2)} == {0, 1}, "said again by the reconciler"


def test_how_many_may_run_is_what_the_version_says_that_runs(plane: Plane) -> None:
    """For what was accepted before, too, and while nobody asks for another run."""
    plane.create("few", concurrency=1)
    for _ in range(4):
        plane.run("few")
    first = plane.take()
    plane.update("few", concurrency=2)
    plane.passes(0.0)
    second = plane.take()
    assert plane.queue.take(QUEUE_BACKGROUND) is None
    plane.update("few", concurrency=0)
    plane.passes(1.0)
    plane.take()
    plane.update("few", concurrency=3)
    plane.queue.lose_everything()
    plane.passes(10.0, 20.0)
    assert {plane.take().concurrency for _ in range(3)} == {3}, "of the first version's runs"
    assert (first.concurrency, second.concurrency) == (1, 1)
    plane.services.deployments.delete(ADMIN, "few")
    plane.passes(30.0)
    assert plane.queue.concurrency() == {}


def test_a_background_run_answers_its_record(plane: Plane) -> None:
    execution = plane.services.executions.run(ADMIN, "hello", '{"a":1}')
    assert (execution.status, execution.kind, execution.name) == ("Pending", "run", "hello")
    assert plane.record(execution.uuid) == execution


def test_with_the_queue_away_a_run_is_accepted_all_the_same(plane: Plane) -> None:
    plane.queue.away = "killed"
    uuid = plane.run()
    plane.queue.away = None
    assert plane.record(uuid).status == "Pending"
    assert plane.queue.take(QUEUE_BACKGROUND) is None


def test_runs_in_bulk_keep_their_order(plane: Plane) -> None:
    texts = [json.dumps({"n": n}) for n in range(300)]
    ids = plane.services.executions.run_bulk(ADMIN, "hello", texts)
    assert [record.args for record in plane.services.executions.get_bulk(ADMIN, ids)] == texts
    assert [plane.take().execution_id for _ in ids] == ids
    listed = plane.services.executions.list(ADMIN, Filter(deployment="hello"), 1000, None)
    assert [one.uuid for one in listed.items if one.kind == "run"] == ids[::-1]


def test_no_runs_in_bulk_are_no_error(plane: Plane) -> None:
    assert plane.services.executions.run_bulk(ADMIN, "hello", []) == []
    with pytest.raises(NotFound):
        plane.services.executions.run_bulk(ADMIN, "unknown", [])


def test_a_run_while_the_first_build_is_under_way_waits_for_it(plane: Plane) -> None:
    plane.create("built", requirements="requests")
    uuid = plane.run("built")
    assert (plane.record(uuid).status, plane.record(uuid).version) == ("Pending", 1)
    assert plane.queue.take(QUEUE_BACKGROUND) is None
    plane.build()
    request = plane.take()
    assert (request.execution_id, request.sandbox.environment) == (uuid, "env-1")


def test_it_ends_with_the_build_that_fails(plane: Plane) -> None:
    build = plane.create("built", requirements="requests")
    uuid = plane.run("built")
    plane.build(**failed("build_failed", "no such package"), build=None)
    record = plane.record(uuid)
    assert (record.status, record.reason) == ("Failure", "build_failed")
    assert build in (record.output or "")
    assert record.error is not None
    assert "no such package" in record.error["message"]


def test_after_a_failed_first_build_a_run_is_refused_with_the_builds_id_and_reason(plane: Plane) -> None:
    build = plane.create("built", requirements="requests")
    plane.build(**failed("build_failed", "no such package"), build=None)
    error = _refused(lambda: plane.run("built"))
    assert (error.status, error.code, error.execution_id) == (409, "deployment_not_ready", build)
    assert error.extra["reason"] == "build_failed"
    assert _refused(lambda: plane.create("built")).code == "exists"
    plane.update("built", requirements="")
    plane.run("built")
    assert plane.take().sandbox.version == 2


@pytest.mark.parametrize("name", ["unknown", "../x", "x' OR 1=1 --", "a\0", ""])
def test_an_unknown_deployment_is_not_found(plane: Plane, name: str) -> None:
    with pytest.raises(NotFound):
        plane.run(name)


# ---------------------------------------------------------------- sync runs


def test_a_sync_run_answers_its_end_and_has_recorded_it_itself(plane: Plane) -> None:
    with plane.working() as taken:
        execution, over = plane.services.executions.run_wait(ADMIN, "hello", '{"a":1}', None)
    assert over
    assert (execution.status, execution.output, execution.spot) == ("Success", "42", "127.0.0.1")
    assert execution.started is not None
    assert taken[0].reply
    assert plane.record(execution.uuid) == execution
    plane.record_events()  # the same report once more, by the stream
    assert plane.record(execution.uuid) == execution
    assert plane.log(execution.uuid) == "printed\n"


def test_a_sync_run_that_fails_is_no_error_of_the_service(plane: Plane) -> None:
    with plane.working(**failed()):
        execution, over = plane.services.executions.run_wait(ADMIN, "hello", "{}", None)
    assert over
    assert (execution.status, execution.reason, execution.output) == ("Failure", "error", '"ValueError: no"')
    assert execution.error == {"type": "ValueError", "message": "no\nmore", "traceback": "Traceback ..."}


def test_the_wait_is_over_and_the_run_goes_on(plane: Plane) -> None:
    execution, over = plane.services.executions.run_wait(ADMIN, "hello", "{}", 0.05)
    assert (execution.status, over) == ("Pending", False)
    request = plane.take(QUEUE_SYNC)
    plane.start(request)
    plane.finish(request)
    assert plane.record(execution.uuid).status == "Success"


def test_without_a_spot_a_sync_run_ends_at_the_end_of_its_wait(plane: Plane) -> None:
    plane.update(timeout=0.1)
    plane.queue.heartbeat(a_spot(), age=60)
    execution, over = plane.services.executions.run_wait(ADMIN, "hello", "{}", None)
    assert over
    assert (execution.status, execution.reason) == ("Failure", "no_spot")
    assert plane.queue.take(QUEUE_SYNC) is None
    assert execution.uuid in plane.queue.cancelled


def test_with_a_spot_that_is_only_busy_it_goes_on(plane: Plane) -> None:
    plane.update(timeout=0.1)
    execution, over = plane.services.executions.run_wait(ADMIN, "hello", "{}", None)
    assert (execution.status, over) == ("Pending", False)


def test_a_caller_with_a_wait_of_its_own_leaves_the_run_to_a_spot_to_come(plane: Plane) -> None:
    plane.queue.heartbeat(a_spot(), age=60)
    execution, over = plane.services.executions.run_wait(ADMIN, "hello", "{}", 0.05)
    assert (execution.status, over) == ("Pending", False)


def test_a_timeout_too_long_to_wait_for_is_refused_before_anything_is_recorded(plane: Plane) -> None:
    plane.update(timeout=901.0)
    error = _refused(lambda: plane.services.executions.run_wait(ADMIN, "hello", "{}", None))
    assert isinstance(error, Invalid)
    assert "background" in error.message
    assert all(one.kind != "run" for one in plane.services.executions.list(ADMIN, Filter(), 100, None).items)


def test_a_queue_that_goes_and_comes_back_during_the_wait_costs_only_time(plane: Plane) -> None:
    plane.queue.away = "killed"
    result: list[Any] = []
    caller = threading.Thread(
        target=lambda: result.append(plane.services.executions.run_wait(ADMIN, "hello", "{}", 10.0))
    )
    caller.start()
    while not (found := [one for one in _open(plane) if one.kind == "run"]):
        time.sleep(0.01)
    plane.queue.away = None
    plane.passes(0.0, 5.0)  # the reconciler enqueues it
    request = plane.take(QUEUE_SYNC)
    assert (request.execution_id, request.reply) == (found[0].uuid, True)
    plane.start(request)
    plane.finish(request)
    caller.join(10)
    assert result[0][1]
    assert result[0][0].status == "Success"


def _open(plane: Plane) -> tuple[Any, ...]:
    return plane.services.executions.list(ADMIN, Filter(ended=False), 100, None).items


def test_an_attempt_that_was_lost_is_waited_for_again(plane: Plane) -> None:
    result: list[Any] = []
    caller = threading.Thread(
        target=lambda: result.append(plane.services.executions.run_wait(ADMIN, "hello", "{}", 10.0))
    )
    caller.start()
    first = plane.take(QUEUE_SYNC, 10)
    plane.start(first)
    plane.finish(first, **failed("worker_lost", "the sandbox died"))
    second = plane.take(QUEUE_SYNC, 10)
    assert (second.attempt, second.execution_id) == (2, first.execution_id)
    assert second.token != first.token
    plane.start(second)
    plane.finish(second, output="7")
    caller.join(10)
    assert (result[0][0].output, result[0][0].attempt) == ("7", 2)


# ---------------------------------------------------------------- reading


def test_an_end_that_is_reported_and_not_yet_written_is_waited_for(tmp_path: Path) -> None:
    with control_plane(tmp_path, in_flight=5.0) as plane:
        plane.create()
        uuid = plane.run()
        request = plane.take()
        plane.start(request)
        plane.queue.finish(request, ended(request))
        later = threading.Timer(0.1, plane.record_events)
        later.start()
        assert plane.services.executions.get_bulk(ADMIN, [uuid])[0].status == "Success"
        later.join()


def test_one_that_runs_is_answered_at_once(tmp_path: Path) -> None:
    with control_plane(tmp_path, in_flight=30.0) as plane:
        plane.create()
        uuid = plane.run()
        plane.start(plane.take())
        assert plane.record(uuid).status == "Started"


def test_the_queue_being_away_does_not_keep_anybody_from_reading(plane: Plane) -> None:
    uuid = plane.run()
    plane.queue.away = "killed"
    assert plane.record(uuid).status == "Pending"
    assert plane.log(uuid) == ""


def test_several_are_held_back_until_the_first_has_ended(plane: Plane) -> None:
    service = plane.services.executions
    first, second = plane.run(), plane.run()
    request = plane.take()
    plane.start(request)
    assert [one.status for one in service.get_bulk(ADMIN, [first, second], 0.05)] == ["Started", "Pending"]
    ending = threading.Timer(0.1, lambda: plane.finish(request))
    ending.start()
    began = time.monotonic()
    assert [one.status for one in service.get_bulk(ADMIN, [first, second], 20.0)] == ["Success", "Pending"]
    assert time.monotonic() - began < 10.0
    ending.join()
    assert service.get_bulk(ADMIN, [first, second], 20.0)[0].status == "Success"
    assert service.get_bulk(ADMIN, [second, first], 20.0, gone)[0].status == "Pending"


def test_nobody_is_held_back_for_what_is_not_theirs_or_not_there(plane: Plane) -> None:
    uuid = plane.run()
    began = time.monotonic()
    for who, asked in ((EVE, uuid), (ADMIN, "01900000-0000-7000-8000-000000000000")):
        with pytest.raises(NotFound):
            plane.services.executions.get_bulk(who, [asked], 20.0)
    assert time.monotonic() - began < 10.0


def test_unknown_ids_are_named(plane: Plane) -> None:
    known, unknown = plane.run(), "01900000-0000-7000-8000-000000000000"
    error = _refused(lambda: plane.services.executions.get_bulk(ADMIN, [known, unknown, "x' OR 1=1"]))
    assert (error.status, error.extra["unknown"]) == (404, ["x' OR 1=1"])
    error = _refused(lambda: plane.services.executions.get_bulk(ADMIN, [known, unknown]))
    assert error.extra["unknown"] == [unknown]
    assert unknown in error.message
    with pytest.raises(NotFound):
        plane.record("x")


def test_the_same_id_twice_is_refused_by_its_index(plane: Plane) -> None:
    one, two = plane.run(), plane.run()
    error = _refused(lambda: plane.services.executions.get_bulk(ADMIN, [one, two, one, one]))
    assert (error.status, error.message) == (400, "[2]: is the same id as [0]; [3]: is the same id as [0]")
    assert len(_refused(lambda: plane.services.executions.get_bulk(ADMIN, [one] * 5000)).errors) == 100


def test_pages_follow_one_another_by_their_cursor(plane: Plane) -> None:
    ids = plane.services.executions.run_bulk(ADMIN, "hello", ["{}"] * 25)
    seen: list[str] = []
    cursor = None
    while True:
        page = plane.services.executions.list(ADMIN, Filter(ended=False), 10, cursor)
        seen += [one.uuid for one in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == ids[::-1]


@pytest.mark.parametrize("cursor", ["", "x", "\u00e4", "!!!!", "MS4y.Mw", "LTEuLTE", "A" * 1000])
def test_a_cursor_that_no_page_gave_is_refused(plane: Plane, cursor: str) -> None:
    with pytest.raises(Invalid) as caught:
        plane.services.executions.list(ADMIN, Filter(), 10, cursor)
    assert caught.value.errors[0].field == "cursor"


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_limit_out_of_range_is_refused(plane: Plane, limit: int) -> None:
    with pytest.raises(Invalid):
        plane.services.executions.list(ADMIN, Filter(), limit, None)


def test_a_filter_that_nothing_can_match_is_an_empty_page(plane: Plane) -> None:
    assert plane.services.executions.list(ADMIN, Filter(deployment="a\0"), 10, None).items == ()
    record = plane.record(plane.run())
    later = record.created + timedelta(seconds=1)
    assert plane.services.executions.list(ADMIN, Filter(since=later), 10, None).items == ()


def test_waiting_for_an_end_ends_with_it_or_with_the_seconds(plane: Plane) -> None:
    uuid = plane.run()
    assert plane.services.executions.wait(ADMIN, uuid, 0.05).status == "Pending"
    request = plane.take()
    later = threading.Timer(0.05, lambda: plane.finish(request))
    later.start()
    assert plane.services.executions.wait(ADMIN, uuid, 10).status == "Success"
    later.join()
    assert plane.services.executions.wait(ADMIN, uuid, 10).status == "Success"


# ---------------------------------------------------------------- logs


def test_a_log_is_read_while_it_grows_and_kept_at_the_end(plane: Plane) -> None:
    uuid = plane.run()
    request = plane.take()
    plane.start(request)
    plane.queue.write_log(uuid, "one\n")
    assert plane.log(uuid) == "one\n"
    follower = plane.services.executions.follow(ADMIN, uuid)
    assert next(follower) == "one\n"
    plane.queue.write_log(uuid, "two\n")
    assert next(follower) == "two\n"
    plane.finish(request, log="one\ntwo\nthree\n")
    assert "".join(follower) == "three\n"
    assert plane.log(uuid) == "one\ntwo\nthree\n"


def test_following_an_unknown_log_fails_before_the_first_text(plane: Plane) -> None:
    with pytest.raises(NotFound):
        plane.services.executions.follow(ADMIN, "01900000-0000-7000-8000-000000000000")


# ---------------------------------------------------------------- cancelling


def test_what_waits_is_cancelled_at_once(plane: Plane) -> None:
    uuid = plane.run()
    record = plane.services.executions.cancel(ADMIN, uuid)
    assert (record.status, record.reason, record.output) == ("Cancelled", "cancelled", '"Cancelled by admin."')
    assert uuid in plane.queue.cancelled
    assert plane.queue.take(QUEUE_BACKGROUND) is None


def test_what_runs_is_cancelled_by_its_worker(tmp_path: Path) -> None:
    with control_plane(tmp_path, in_flight=5.0) as plane:
        plane.create()
        uuid = plane.run()
        request = plane.take()
        plane.start(request)
        obeying = threading.Timer(
            0.05, lambda: plane.finish(request, status="Cancelled", reason="cancelled", output=None)
        )
        obeying.start()
        assert plane.services.executions.cancel(ADMIN, uuid).status == "Cancelled"
        obeying.join()


def test_a_cancel_that_takes_longer_answers_what_is_and_is_remembered(plane: Plane) -> None:
    uuid = plane.run()
    request = plane.take()
    plane.start(request)
    assert plane.services.executions.cancel(ADMIN, uuid).status == "Started"
    plane.finish(request, **failed("worker_lost"))
    assert (plane.record(uuid).status, plane.record(uuid).attempt) == ("Cancelled", 1)


def test_a_success_that_came_first_stands(plane: Plane) -> None:
    uuid = plane.run()
    request = plane.take()
    plane.start(request)
    plane.services.executions.cancel(ADMIN, uuid)
    plane.finish(request)
    assert plane.record(uuid).status == "Success"


def test_cancelling_what_has_ended_is_a_conflict(plane: Plane) -> None:
    uuid = plane.run()
    plane.services.executions.cancel(ADMIN, uuid)
    error = _refused(lambda: plane.services.executions.cancel(ADMIN, uuid))
    assert isinstance(error, Conflict)
    assert (error.code, error.execution_id) == ("already_ended", uuid)


def test_who_cancels_in_the_moment_of_the_end_hears_which_it_was(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    uuid = plane.run()
    request = plane.take()
    look = plane.services.executions.get

    def ends_meanwhile(*said: Any) -> Any:
        seen = look(*said)
        plane.finish(request)
        return seen

    monkeypatch.setattr(plane.services.executions, "get", ends_meanwhile)
    error = _refused(lambda: plane.services.executions.cancel(ADMIN, uuid))
    assert (error.code, error.message) == ("already_ended", "The execution has ended already (Success).")


def test_cancelling_a_build_fails_its_version_and_what_waits(plane: Plane) -> None:
    build = plane.create("built", requirements="requests")
    waiting = plane.run("built")
    plane.services.executions.cancel(ADMIN, build)
    assert plane.record(build).status == "Cancelled"
    assert plane.record(waiting).reason == "build_failed"
    assert plane.services.deployments.get(ADMIN, "built").status == "failed"
    assert _refused(lambda: plane.run("built")).code == "deployment_not_ready"


def test_a_cancel_with_the_queue_away_holds(plane: Plane) -> None:
    uuid = plane.run()
    plane.queue.away = "killed"
    assert plane.services.executions.cancel(ADMIN, uuid).status == "Cancelled"


# ---------------------------------------------------------------- access


def test_who_sees_which_execution(plane: Plane) -> None:
    plane.create("anns", who=ANN)
    plane.create("bobs", who=BOB)
    by_ann, by_eve, on_bobs = plane.run("anns", who=ANN), plane.run("anns", who=EVE), plane.run("bobs", who=BOB)
    everything = {by_ann, by_eve, on_bobs}
    for who, visible in ((ADMIN, everything), (ANN, {by_ann, by_eve}), (BOB, {on_bobs}), (EVE, {by_eve})):
        listed = {one.uuid for one in plane.services.executions.list(who, Filter(), 100, None).items}
        assert listed & everything == visible
        for uuid in everything:
            assert _sees(plane, who, uuid) is (uuid in visible)


def _sees(plane: Plane, who: Any, uuid: str) -> bool:
    """By every way of reading or ending it; what is not yours answers as the unknown."""
    service = plane.services.executions
    calls: list[Callable[[], Any]] = [
        lambda: service.get(who, uuid),
        lambda: service.get_bulk(who, [uuid]),
        lambda: service.logs(who, uuid),
        lambda: service.follow(who, uuid),
        lambda: service.wait(who, uuid, 0.0),
    ]
    answers = {_answer(call, uuid) for call in calls}
    assert len(answers) == 1, answers
    if answers == {"unknown"}:
        assert _answer(lambda: service.cancel(who, uuid), uuid) == "unknown"
    return answers == {"seen"}


def _answer(call: Callable[[], Any], uuid: str) -> str:
    try:
        call()
    except NotFound as error:
        return "unknown" if error.message == f"There is no execution {uuid}." else error.message
    return "seen"


def test_an_invoker_runs_by_name_and_cancels_its_own(plane: Plane) -> None:
    plane.create("anns", who=ANN)
    uuid = plane.run("anns", who=EVE)
    assert plane.services.executions.cancel(EVE, uuid).status == "Cancelled"


def test_nobody_runs_what_another_deployer_owns(plane: Plane) -> None:
    plane.create("anns", who=ANN)
    with pytest.raises(NotFound):
        plane.run("anns", who=BOB)


def test_a_database_that_is_away_is_a_503_with_the_id_once_there_is_one(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_events: object) -> None:
        raise Unavailable("away", code="storage_unavailable")

    monkeypatch.setattr(plane.services.recorder, "apply", away)
    with plane.working() as taken:
        error = _refused(lambda: plane.services.executions.run_wait(ADMIN, "hello", "{}", 5.0))
    assert (error.code, error.execution_id) == ("storage_unavailable", taken[0].execution_id)


def test_a_start_that_is_reported_late_does_not_reopen_anything(plane: Plane) -> None:
    uuid = plane.run()
    request = plane.take()
    plane.finish(request)
    plane.services.recorder.apply([started(request)])
    assert plane.record(uuid).status == "Success"
