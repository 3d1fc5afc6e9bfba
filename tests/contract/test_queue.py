"""One suite for the queue's seam, run over RQ on a real server and over the queue in memory."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol, cast

import pytest
import redis
from rq import Queue as RqQueue
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from faaspot_api.errors import Unavailable
from faaspot_api.queue.base import LOG_START, Attempt, Queue
from faaspot_api.queue.clients import RECORDER
from faaspot_api.queue.inline import InlineQueue
from faaspot_api.queue.memory import CROWDED, ROOM
from faaspot_api.queue.rq import RedisQueue
from faaspot_runner import contract
from faaspot_runner.contract import (
    QUEUE_BACKGROUND,
    QUEUE_BUILDS,
    QUEUE_SYNC,
    BuildRequest,
    Release,
    RunEnded,
    RunRequest,
    SandboxSpec,
    SpotInfo,
    SpotRequest,
)
from faaspot_runner.contract.lanes import CAPACITY
from faaspot_runner.contract.runtimes import RuntimeDefinition, Runtimes, RuntimeState, RuntimeWanted
from tests.redis_servers import RedisServer, running_redis

Request = RunRequest | BuildRequest | SpotRequest
SPEC = SandboxSpec(version_id="v1", deployment="hello", version=1, runtime="sandbox", python="3.11", code="c0de")


class Spot(Protocol):
    """The other side of the seam."""

    def take(self, queue: str) -> Request | None: ...
    def hold(self, request: Request) -> bool: ...
    def finish(self, request: Request, ended: RunEnded) -> None: ...
    def expire(self, request: Request) -> None: ...
    def write_log(self, execution_id: str, text: str) -> None: ...
    def heartbeat(self, info: SpotInfo) -> None: ...
    def kept(self) -> Runtimes | None: ...


class RedisSpot:
    """A worker as plain Redis commands, following `contract` and what RQ's worker does, with threads for all."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client
        client.hset(CAPACITY, mapping=dict.fromkeys(contract.QUEUES, 1_000_000))

    def take(self, queue: str) -> Request | None:
        if queue == contract.SUPERVISOR:
            text = self.redis.lpop(queue)
            return cast(SpotRequest, contract.load(cast(bytes, text))) if text else None
        key = f"rq:queue:{queue}"
        while identifier := self.redis.lmove(key, key + ":intermediate", "LEFT", "RIGHT"):
            self.redis.lrem(key + ":intermediate", 0, cast(bytes, identifier))
            with contextlib.suppress(NoSuchJobError):  # a wake-up that was taken back
                job = Job.fetch(cast(bytes, identifier).decode(), connection=self.redis, serializer=JSONSerializer)
                return cast(Request, contract.load(job.args[0]))
        return None

    def hold(self, request: Request) -> bool:
        key = contract.lease_key(request.execution_id, request.attempt)
        return bool(self.redis.set(key, request.token, nx=True, ex=15))

    def finish(self, request: Request, ended: RunEnded) -> None:
        if isinstance(request, RunRequest) and request.reply:
            self.redis.rpush(contract.reply_key(request.execution_id), contract.dump(ended))
        self.redis.xadd(contract.REPORTS, {"event": contract.dump(ended)})
        self.redis.set(contract.lease_key(request.execution_id, request.attempt), contract.LEASE_DONE, ex=120)

    def expire(self, request: Request) -> None:
        self.redis.delete(contract.lease_key(request.execution_id, request.attempt))

    def write_log(self, execution_id: str, text: str) -> None:
        self.redis.xadd(contract.log_key(execution_id), {"text": text})

    def kept(self) -> Runtimes | None:
        text = self.redis.get(contract.RUNTIMES)
        return cast(Runtimes, contract.load(cast(bytes, text))) if text else None

    def heartbeat(self, info: SpotInfo) -> None:
        self.redis.hset(contract.SPOTS, info.ip, contract.dump(info))


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(params=["inline", "redis"])
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Queue, Spot]]:
    if request.param == "inline":
        queue = InlineQueue()
        yield queue, queue
        return
    client = request.getfixturevalue("server").client()
    client.flushall()
    yield RedisQueue(client), RedisSpot(client)
    client.close()


def run(number: int = 1, **more: Any) -> RunRequest:
    return replace(RunRequest(execution_id=f"run-{number}", attempt=1, token=f"t{number}", sandbox=SPEC), **more)


def build() -> BuildRequest:
    return BuildRequest(
        execution_id="build-1", attempt=1, token="t", deployment="hello", version=1, version_id="v1",
        requirements="requests", python="3.11",
    )  # fmt: skip


def spot_request() -> SpotRequest:
    return SpotRequest(execution_id="spot-1", attempt=1, token="t", action="add")


def attempt(request: Request) -> Attempt:
    return Attempt(execution_id=request.execution_id, attempt=request.attempt, kind=request.kind)


def ended(request: Request) -> RunEnded:
    return RunEnded(
        execution_id=request.execution_id, attempt=request.attempt, token=request.token, spot="127.0.0.1", at=1.0,
        status="Success", output="1",
    )  # fmt: skip


def test_a_wake_up_carries_the_request_whole(both: tuple[Queue, Spot]) -> None:
    queue, spot = both
    request = run(args=json.dumps({"name": "Zoë \x00 \U0001f600"}, ensure_ascii=False), reply=True, expires=12.5)
    queue.enqueue_run(request, QUEUE_SYNC)
    assert spot.take(QUEUE_BACKGROUND) is None
    assert spot.take(QUEUE_SYNC) == request
    assert spot.take(QUEUE_SYNC) is None


def test_builds_and_spot_requests_have_lines_of_their_own(both: tuple[Queue, Spot]) -> None:
    queue, spot = both
    queue.enqueue_build(build())
    queue.enqueue_spot(spot_request())
    assert spot.take(QUEUE_BUILDS) == build()
    assert spot.take(contract.SUPERVISOR) == spot_request()


def test_bulk_keeps_the_order(both: tuple[Queue, Spot]) -> None:
    queue, spot = both
    requests = [run(number) for number in range(2500)]
    queue.enqueue_runs(requests, QUEUE_BACKGROUND)
    assert [spot.take(QUEUE_BACKGROUND) for _ in requests] == requests


def test_bulk_of_nothing_is_nothing(both: tuple[Queue, Spot]) -> None:
    queue, spot = both
    queue.enqueue_runs([], QUEUE_BACKGROUND)
    assert spot.take(QUEUE_BACKGROUND) is None


def test_enqueueing_again_never_makes_a_second_wake_up(both: tuple[Queue, Spot]) -> None:
    queue, spot = both
    for _ in range(3):
        queue.enqueue_run(run(), QUEUE_BACKGROUND)
        queue.enqueue_build(build())
        queue.enqueue_spot(spot_request())
    assert spot.take(QUEUE_BACKGROUND) == run()
    assert spot.take(QUEUE_BACKGROUND) is None
    assert spot.take(QUEUE_BUILDS) == build()
    assert spot.take(QUEUE_BUILDS) is None
    assert spot.take(contract.SUPERVISOR) == spot_request()
    assert spot.take(contract.SUPERVISOR) is None


def test_a_taken_attempt_can_be_enqueued_again(both: tuple[Queue, Spot]) -> None:
    queue, spot = both
    queue.enqueue_run(run(), QUEUE_BACKGROUND)
    assert spot.take(QUEUE_BACKGROUND) == run()
    queue.enqueue_run(run(), QUEUE_BACKGROUND)
    assert spot.take(QUEUE_BACKGROUND) == run()


def test_queued_names_what_still_stands_in_a_line(both: tuple[Queue, Spot]) -> None:
    queue, spot = both
    requests = [run(1), run(2), build(), spot_request()]
    queue.enqueue_run(run(1), QUEUE_SYNC)
    queue.enqueue_run(run(2), QUEUE_BACKGROUND)
    queue.enqueue_build(build())
    queue.enqueue_spot(spot_request())
    asked = [attempt(request) for request in requests]
    never = Attempt(execution_id="run-9", attempt=1)
    next_attempt = replace(asked[0], attempt=2)
    assert queue.queued([*asked, never, next_attempt]) == frozenset(asked)
    spot.take(QUEUE_SYNC)
    assert queue.queued(asked) == frozenset(asked[1:])
    assert queue.queued([]) == frozenset()


def test_queued_reads_long_lines(both: tuple[Queue, Spot]) -> None:
    queue, _ = both
    requests = [run(number) for number in range(12_000)]
    queue.enqueue_runs(requests, QUEUE_BACKGROUND)
    asked = [attempt(requests[number]) for number in (0, 5_000, 9_999, 10_000, 11_999)]
    assert queue.queued(asked) == frozenset(asked)


def test_the_lengths_are_of_what_no_worker_has_taken(both: tuple[Queue, Spot]) -> None:
    queue, spot = both
    assert queue.lengths() == {"sync": 0, "background": 0, "builds": 0, "reports": 0}
    queue.enqueue_runs([run(n) for n in range(3)], QUEUE_BACKGROUND)
    taken = spot.take(QUEUE_BACKGROUND)
    assert taken is not None
    spot.finish(taken, ended(taken))
    assert queue.lengths() == {"sync": 0, "background": 2, "builds": 0, "reports": 1}


def test_how_many_may_run_is_what_was_said_last(both: tuple[Queue, Spot]) -> None:
    queue, _ = both
    queue.enqueue_run(run(1, concurrency=2), QUEUE_BACKGROUND)
    assert queue.concurrency() == {"hello": 2}
    queue.limit({"hello": 3, "other": 1, "none": 0})
    assert queue.concurrency() == {"hello": 3, "other": 1}
    queue.limit({"other": 0})
    queue.limit({})
    queue.enqueue_run(run(2), QUEUE_BACKGROUND)
    assert queue.concurrency() == {}


def test_the_recorders_last_word_is_known_until_it_falls_silent(both: tuple[Queue, Spot]) -> None:
    queue, _ = both
    assert queue.recorder() is None
    queue.beat("the disk is full")
    assert queue.recorder() == "the disk is full"
    queue.beat("")
    assert queue.recorder() == ""


def test_silence_of_the_recorder_is_noticed_within_seconds(server: RedisServer) -> None:
    with contextlib.closing(server.client()) as client:
        RedisQueue(client).beat("")
        assert 0 < cast(int, client.ttl(RECORDER)) <= 15


def test_a_lease_is_held_then_done_or_gone(both: tuple[Queue, Spot]) -> None:
    queue, spot = both
    first, second, third = run(1), run(2), run(3)
    for request in (first, second):
        assert spot.hold(request)
        assert not spot.hold(request)
    spot.finish(second, ended(second))
    asked = [attempt(first), attempt(second), attempt(third)]
    assert queue.leases(asked) == ("held", "done", "none")
    spot.expire(first)
    assert queue.leases(asked) == ("none", "done", "none")
    assert queue.leases([]) == ()


def test_a_reply_reaches_who_waits_and_is_taken_away(both: tuple[Queue, Spot]) -> None:
    queue, spot = both
    request = run(reply=True)
    spot.hold(request)
    replying = threading.Timer(0.05, spot.finish, (request, ended(request)))
    replying.start()
    assert queue.wait_reply(request.execution_id, 10.0) == ended(request)
    replying.join()
    assert queue.wait_reply(request.execution_id, 0.0) is None


def test_who_waits_for_nothing_gets_nothing_in_time(both: tuple[Queue, Spot]) -> None:
    queue, _ = both
    began = time.monotonic()
    assert queue.wait_reply("run-1", 0.2) is None
    assert 0.1 < time.monotonic() - began < 2.0


def test_a_hundred_callers_wait_at_once(both: tuple[Queue, Spot]) -> None:
    queue, spot = both
    requests = [run(number, reply=True) for number in range(100)]
    got: dict[str, RunEnded | None] = {}

    def wait(request: RunRequest) -> None:
        got[request.execution_id] = queue.wait_reply(request.execution_id, 20.0)

    waiting = [threading.Thread(target=wait, args=(request,)) for request in requests]
    for thread in waiting:
        thread.start()
    for request in requests:
        spot.finish(request, ended(request))
    for thread in waiting:
        thread.join()
    assert got == {request.execution_id: ended(request) for request in requests}


def test_deleted_wake_ups_are_gone_and_others_stay(both: tuple[Queue, Spot]) -> None:
    queue, spot = both
    queue.enqueue_run(run(1), QUEUE_BACKGROUND)
    queue.enqueue_run(run(2), QUEUE_BACKGROUND)
    queue.enqueue_spot(spot_request())
    queue.delete_jobs([attempt(run(1)), attempt(spot_request()), Attempt(execution_id="run-9", attempt=1)])
    assert spot.take(QUEUE_BACKGROUND) == run(2)
    assert spot.take(QUEUE_BACKGROUND) is None
    assert spot.take(contract.SUPERVISOR) is None


def test_a_log_is_read_on_from_a_cursor(both: tuple[Queue, Spot]) -> None:
    queue, spot = both
    spot.write_log("run-1", "one\n")
    spot.write_log("run-1", "zwei ü\n")
    first = queue.tail("run-1", LOG_START, 5.0)
    assert first.text == "one\nzwei ü\n"
    assert queue.tail("run-1", first.cursor, 0.01).text == ""
    spot.write_log("run-1", "three\n")
    assert queue.tail("run-1", first.cursor, 5.0).text == "three\n"


def test_spots_tell_of_themselves(both: tuple[Queue, Spot]) -> None:
    queue, spot = both
    assert queue.spots() == ()
    info = SpotInfo(
        ip="127.0.0.2", created=1.0, last_seen=time.time(), status="online", runtimes=("sandbox",),
        pythons={"3.11": "3.11.2"}, networks=("none",), limits="rlimit",
        states={"sandbox": RuntimeState(status="failed", error="no disk", asked=5)},
    )  # fmt: skip
    spot.heartbeat(info)
    spot.heartbeat(replace(info, ip="127.0.0.1"))
    seen = queue.spots()
    assert [one.info for one in seen] == [replace(info, ip="127.0.0.1"), info]
    assert all(0 <= one.age < 5 for one in seen)


def test_the_wanted_runtimes_are_kept_whole_and_only_a_newer_word_counts(both: tuple[Queue, Spot]) -> None:
    queue, spot = both
    first, second = wanted(5, "strict"), wanted(6)
    for runtimes in (second, first, second):
        queue.want(runtimes)
        assert spot.kept() == second
    queue.want(wanted(7, "strict", "other"))
    assert spot.kept() == wanted(7, "strict", "other")


def wanted(revision: int, *names: str) -> Runtimes:
    definitions = (RuntimeDefinition(name=name, type="docker", config={"image": "debian"}) for name in names)
    return Runtimes(
        revision=revision, wanted=tuple(RuntimeWanted(definition=each, wanted="up", asked=3) for each in definitions)
    )


def test_the_wanted_runtimes_are_told_at_once(server: RedisServer) -> None:
    client = server.client()
    client.flushall()
    with client.pubsub() as listening:
        listening.subscribe(contract.CONTROL)
        assert listening.get_message(timeout=5)
        for revision in (5, 5, 4):
            RedisQueue(client).want(wanted(revision, "strict"))
        message = listening.get_message(timeout=5)
        assert message
        assert contract.load(message["data"]) == wanted(5, "strict")
        assert listening.get_message(timeout=0.1) is None
    client.close()


def test_ping_cancel_and_release_work_on_what_is_not_there(both: tuple[Queue, Spot]) -> None:
    queue, _ = both
    queue.ping()
    queue.cancel(["run-1", "run-2"])
    queue.cancel([])
    queue.release(Release(version_ids=("v1",)))
    queue.delete_jobs([])


# ---------------------------------------------------------------- what only a server can do


def test_a_cancel_is_kept_and_told_at_once(server: RedisServer) -> None:
    client = server.client()
    with client.pubsub() as listening:
        listening.subscribe(contract.CONTROL)
        assert listening.get_message(timeout=5)
        RedisQueue(client).cancel(["run-1"])
        message = listening.get_message(timeout=5)
    assert message
    assert contract.load(message["data"]) == contract.Cancel(execution_id="run-1")
    assert client.exists(contract.cancel_key("run-1"))
    client.close()


def test_what_is_needed_is_kept_for_who_missed_a_release(server: RedisServer) -> None:
    client = server.client()
    RedisQueue(client).need(("a", "b"))
    assert json.loads(client.get(contract.ENVIRONMENTS) or b"") == ["a", "b"]
    assert 60 < client.ttl(contract.ENVIRONMENTS) <= 600
    client.close()


def test_rq_sees_ordinary_jobs_that_decide_nothing(server: RedisServer) -> None:
    client = server.client()
    client.flushall()
    RedisQueue(client).enqueue_run(run(), QUEUE_SYNC)
    (line,) = RqQueue.all(connection=client, serializer=JSONSerializer)
    (job,) = line.jobs
    assert line.name == QUEUE_SYNC
    assert (job.func_name, job.timeout, job.result_ttl) == (contract.JOB_FUNCTION, -1, 0)
    assert job.description == "run"
    client.close()


def test_thousands_of_wake_ups_are_taken_back_without_a_search_for_each(server: RedisServer) -> None:
    client = server.client()
    client.flushall()
    spot, queue, requests = RedisSpot(client), RedisQueue(client), [run(number) for number in range(3_000)]
    queue.enqueue_runs(requests, QUEUE_BACKGROUND)
    commands = client.info("commandstats")
    queue.delete_jobs([attempt(request) for request in requests])
    more = client.info("commandstats")
    assert "cmdstat_lrem" not in more or more["cmdstat_lrem"] == commands.get("cmdstat_lrem")
    assert not list(client.scan_iter("rq:job:*"))
    assert spot.take(QUEUE_BACKGROUND) is None
    client.close()


def test_a_malformed_heartbeat_hides_no_other_spot(server: RedisServer) -> None:
    client = server.client()
    client.flushall()
    client.hset(contract.SPOTS, "127.0.0.9", "not json")
    assert RedisQueue(client).spots() == ()
    client.close()


def test_an_absent_server_is_unavailable_with_a_reason() -> None:
    with running_redis() as server:
        queue = RedisQueue(server.client())
        queue.ping()
    with pytest.raises(Unavailable, match="cannot be reached") as raised:
        queue.enqueue_run(run(), QUEUE_SYNC)
    assert raised.value.code == "queue_unavailable"
    assert raised.value.retry_after


def test_a_restarted_server_is_not_noticed() -> None:
    with running_redis() as server:
        queue = RedisQueue(server.client())
        queue.enqueue_run(run(), QUEUE_SYNC)
        server.restart()
        assert queue.queued([attempt(run())]) == frozenset({attempt(run())})


def test_a_wrong_password_is_named() -> None:
    with running_redis() as server, pytest.raises(Unavailable, match="password"):
        RedisQueue(server.client(password="wrong")).ping()


def test_a_full_server_is_named(server: RedisServer) -> None:
    with running_redis(more="maxmemory 1mb\n") as small, pytest.raises(Unavailable, match="memory limit"):
        RedisQueue(small.client()).enqueue_runs([run(number, args="x" * 100_000) for number in range(50)], QUEUE_SYNC)


def test_a_part_of_the_memory_is_kept_for_the_workers() -> None:
    with running_redis(more="maxmemory 24mb\n") as small:
        client = small.client()
        queue, number = RedisQueue(client), 0
        while queue.has_room():
            queue.enqueue_run(run(number, args=json.dumps(os.urandom(100_000).hex())), QUEUE_BACKGROUND)
            number += 1
            queue._memory.look()
        with pytest.raises(Unavailable, match="near its memory limit") as caught:
            queue.enqueue_run(run(number), QUEUE_BACKGROUND)
        assert caught.value.retry_after
        assert queue.shed() == 0, "there is still room for what workers write"
        taken = RedisSpot(client).take(QUEUE_BACKGROUND)
        assert taken is not None
        assert RedisSpot(client).hold(taken)

        while queue._memory.look() < CROWDED:  # too quick for the bound, or not ours
            client.rpush("filler", b"x" * 100_000)
        assert queue.shed() > 0
        assert queue._memory.look() < ROOM
        queue.ping()
        queue.enqueue_run(run(number), QUEUE_BACKGROUND)
        client.close()


def test_an_absent_server_has_room_for_all_that_is_known() -> None:
    with running_redis() as server:
        queue = RedisQueue(server.client())
        assert queue.has_room()
    assert RedisQueue(server.client()).has_room()


@pytest.mark.slow
def test_a_frozen_server_holds_nobody_for_long() -> None:
    with running_redis() as server:
        queue = RedisQueue(server.client())
        queue.ping()
        with server.frozen():
            began = time.monotonic()
            failures: list[Unavailable] = []

            def call() -> None:
                try:
                    queue.wait_reply("run-1", 60.0)
                except Unavailable as error:
                    failures.append(error)

            threads = [threading.Thread(target=call) for _ in range(100)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(failures) == 100
            assert time.monotonic() - began < 15.0
        queue.ping()
