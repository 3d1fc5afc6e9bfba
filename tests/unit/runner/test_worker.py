"""Wake-ups to ends against a real server and real RQ jobs; what runs them is a fake that waits for the test."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest
import redis
from rq import Queue, Worker
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import StartedJobRegistry, clean_registries
from rq.serializers import JSONSerializer

from faaspot_runner.contract import (
    JOB_FUNCTION,
    LEASE_DONE,
    REPORTS,
    Message,
    RunEnded,
    RunRequest,
    RunStarted,
    SandboxSpec,
    cancel_key,
    dump,
    job_id,
    lease_key,
    load,
    log_key,
    reply_key,
)
from faaspot_runner.execute import Ended, Executor
from faaspot_runner.lease import Ending, Lease, Leases, Place, RedisClock, Request, recover, sweep_started
from faaspot_runner.report import LiveLog, LiveLogs, Reporter
from faaspot_runner.worker import Runs, SpotWorker
from tests.unit.runner.valkey import Valkey

pytestmark = pytest.mark.timeout(30)

SPEC = SandboxSpec(version_id="v1", deployment="d", version=1, runtime="sandbox", python="3.11", code="0" * 64)
PLACE = Place(queue="sync", worker="w1", spot="127.0.0.1")


def a_run(**more: object) -> RunRequest:
    given = {"execution_id": str(uuid4()), "attempt": 1, "token": uuid4().hex, "sandbox": SPEC, **more}
    return RunRequest(**given)  # type: ignore[arg-type]


def enqueue(client: redis.Redis, request: RunRequest) -> str:
    queue = Queue("sync", connection=client, serializer=JSONSerializer)
    name = job_id(request.execution_id, request.attempt)
    queue.enqueue(JOB_FUNCTION, args=(dump(request),), job_id=name)
    client.hset(Job.key_for(name), "token", request.token)
    return name


def dequeue(client: redis.Redis) -> str:
    moved = client.lmove(PLACE.lines[0], PLACE.intermediates[0])
    assert isinstance(moved, bytes)
    return moved.decode()


def events(client: redis.Redis) -> list[Message]:
    return [load(fields[b"event"]) for _, fields in client.xrange(REPORTS)]


class FakeExecutor(Executor):
    """Ends each run as it is told to, after it was let go on."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.settled = 0
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.make: Callable[[Request, Lease], RunEnded | None] = success

    def run(self, request: Request, lease: Lease, live: LiveLog) -> Ended | None:
        self.started.append(request.execution_id)
        lease.on_stop(self.go_on.set)
        self.began.set()
        live.write(b"line\n")
        assert self.go_on.wait(20)
        event = self.make(request, lease)
        return Ended(event=event, settle=self._settle) if event else None

    def _settle(self) -> None:
        self.settled += 1


def success(request: Request, lease: Lease) -> RunEnded | None:
    if lease.ending in ("lost", "stopped"):
        return None
    cancelled = lease.ending == "cancelled"
    return RunEnded(
        execution_id=request.execution_id,
        attempt=request.attempt,
        token=request.token,
        spot="127.0.0.1",
        at=1.0,
        status="Cancelled" if cancelled else "Success",
        reason="cancelled" if cancelled else None,
        output='"done"',
    )


class Bench:
    """One worker's parts, without the process around them."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.executor = FakeExecutor()
        self.hurry = threading.Event()
        self.leases = Leases(client, PLACE, "127.0.0.1", RedisClock())
        self.live = LiveLogs(client)
        reporter = Reporter(client, PLACE, self.hurry.wait)
        self.runs = Runs(PLACE, self.leases, self.executor, reporter, self.live)
        self.threads: list[threading.Thread] = []

    def serve(self, request: RunRequest) -> None:
        enqueue(self.client, request)
        self.runs.serve(dequeue(self.client))

    def begin(self, request: RunRequest) -> threading.Thread:
        """Serve it in a thread; returns when it runs."""
        self.executor.go_on.clear()
        thread = threading.Thread(target=self.serve, args=(request,))
        thread.start()
        self.threads.append(thread)
        assert self.executor.began.wait(10)
        return thread

    def close(self) -> None:
        self.executor.go_on.set()
        for thread in self.threads:
            thread.join(10)
        self.live.close()


@pytest.fixture
def bench(client: redis.Redis) -> Iterator[Bench]:
    bench = Bench(client)
    yield bench
    bench.close()


# ---------------------------------------------------------------- the straight way


def test_a_run_is_reported_started_and_ended_and_leaves_only_a_done_lease(bench: Bench, client: redis.Redis) -> None:
    request = a_run()
    bench.serve(request)
    started, ended = events(client)
    assert isinstance(started, RunStarted)
    assert isinstance(ended, RunEnded)
    assert (started.execution_id, started.token, started.spot) == (request.execution_id, request.token, "127.0.0.1")
    assert (ended.status, ended.output) == ("Success", '"done"')
    assert client.get(lease_key(request.execution_id, 1)) == LEASE_DONE.encode()
    assert 0 < cast(int, client.ttl(lease_key(request.execution_id, 1))) <= 120
    left = {key.decode() for key in cast(list[bytes], client.keys())}
    assert left == {lease_key(request.execution_id, 1), REPORTS, PLACE.worker_key, "rq:queues"}
    assert bench.executor.settled == 1


def test_a_waiting_caller_gets_the_same_event_on_a_list_that_expires(bench: Bench, client: redis.Redis) -> None:
    request = a_run(reply=True)
    bench.serve(request)
    assert client.lrange(reply_key(request.execution_id), 0, -1) == [dump(events(client)[1]).encode()]
    assert cast(int, client.ttl(reply_key(request.execution_id))) > 0


def test_rq_sees_what_runs_and_what_was_done(bench: Bench, client: redis.Redis) -> None:
    request = a_run()
    queue = Queue("sync", connection=client, serializer=JSONSerializer)
    thread = bench.begin(request)
    assert (queue.count, queue.started_job_registry.count) == (0, 1)
    assert queue.started_job_registry.get_job_ids() == [job_id(request.execution_id, 1)]
    assert client.hget(PLACE.worker_key, "state") == b"busy"
    bench.executor.go_on.set()
    thread.join(10)
    assert (queue.count, queue.started_job_registry.count) == (0, 0)
    assert client.hmget(PLACE.worker_key, "state", "successful_job_count") == [b"idle", b"1"]


def test_the_whole_bookkeeping_of_a_run_is_two_round_trips(bench: Bench, client: redis.Redis) -> None:
    request = a_run(reply=True)
    enqueue(client, request)
    identifier = dequeue(client)
    bench.serve(a_run())  # loads the script
    before = client.info("commandstats")
    bench.runs.serve(identifier)
    after = client.info("commandstats")
    calls = {
        name.removeprefix("cmdstat_"): after[name]["calls"] - before.get(name, {"calls": 0})["calls"] for name in after
    }
    assert (calls.get("hget", 0), calls["evalsha"], calls.get("exec", 0)) == (0, 2, 0)
    assert sum(calls.values()) - calls["info"] <= 22


# ---------------------------------------------------------------- duplicates


def test_of_ten_deliveries_of_one_wake_up_one_runs(bench: Bench, client: redis.Redis) -> None:
    request = a_run()
    name = enqueue(client, request)
    for _ in range(9):
        client.rpush(PLACE.lines[0], name)
    gathered = threading.Barrier(10)

    def serve() -> None:
        identifier = dequeue(client)
        gathered.wait(10)
        bench.runs.serve(identifier)

    threads = [threading.Thread(target=serve) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert bench.executor.started == [request.execution_id]
    assert [event.kind for event in events(client)] == ["started", "ended"]
    assert client.llen(PLACE.intermediates[0]) == 0


def test_a_late_duplicate_after_the_end_does_nothing(bench: Bench, client: redis.Redis) -> None:
    request = a_run()
    bench.serve(request)
    bench.serve(request)
    assert bench.executor.started == [request.execution_id]
    assert client.llen(PLACE.intermediates[0]) == 0


def test_another_attempt_is_a_run_of_its_own(bench: Bench, client: redis.Redis) -> None:
    request = a_run()
    bench.serve(request)
    bench.serve(replace(request, attempt=2, token="other"))
    assert len(bench.executor.started) == 2


def test_a_claim_sent_again_because_its_answer_was_lost_is_still_ours(client: redis.Redis) -> None:
    request = a_run()
    leases = Leases(client, PLACE, "127.0.0.1", RedisClock())
    client.set(lease_key(request.execution_id, 1), f"{request.token} {job_id(request.execution_id, 1)}:w1.0")
    lease = leases.take(request)
    assert lease is not None
    assert client.get(lease_key(request.execution_id, 1)) == lease.value.encode()


@pytest.fixture
def elsewhere(client: redis.Redis) -> Leases:
    """Those of another worker."""
    return Leases(client, Place(queue="sync", worker="w2", spot="127.0.0.1"), "127.0.0.1", RedisClock())


def test_who_lost_a_lease_hears_it_though_another_has_one_of_the_same_attempt(
    bench: Bench, client: redis.Redis, elsewhere: Leases
) -> None:
    """Both carry the attempt's token: a server that forgot the key gives it to the next delivery."""
    request = a_run()
    thread = bench.begin(request)
    key = lease_key(request.execution_id, 1)
    client.delete(key)
    second = elsewhere.take(request)
    assert second is not None
    bench.leases.renew()
    thread.join(5)
    assert not thread.is_alive()
    assert [event.kind for event in events(client)] == ["started", "started"]
    elsewhere.renew()
    assert second.ending is None
    assert client.get(key) == second.value.encode()


def test_who_leaves_takes_neither_the_lease_nor_the_job_of_another(
    bench: Bench, client: redis.Redis, elsewhere: Leases
) -> None:
    request = a_run()
    bench.executor.make = lambda *_: None
    thread = bench.begin(request)
    key, name = lease_key(request.execution_id, 1), job_id(request.execution_id, 1)
    client.delete(key)
    second = elsewhere.take(request)
    assert second is not None
    bench.executor.go_on.set()
    thread.join(5)
    assert client.get(key) == second.value.encode()
    assert client.hget(Job.key_for(name), "status") == b"started"
    assert client.zrange(PLACE.started, 0, -1) == [second.member.encode()]


def test_an_end_stops_whoever_else_runs_the_attempt(bench: Bench, client: redis.Redis, elsewhere: Leases) -> None:
    request = a_run()
    thread = bench.begin(request)
    client.delete(lease_key(request.execution_id, 1))
    second = elsewhere.take(request)
    assert second is not None
    bench.executor.go_on.set()
    thread.join(5)
    elsewhere.renew()
    assert second.ending == "lost"
    assert client.get(lease_key(request.execution_id, 1)) == LEASE_DONE.encode()


# ---------------------------------------------------------------- what cannot be run


@pytest.mark.parametrize("text", ["not json", "[]", '{"kind": "cancel", "execution_id": "e"}', '{"kind": "run"}'])
def test_a_job_that_is_no_request_is_dropped_loudly(
    bench: Bench, client: redis.Redis, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    queue = Queue("sync", connection=client, serializer=JSONSerializer)
    queue.enqueue(JOB_FUNCTION, args=(text,), job_id="job-1")
    bench.runs.serve(dequeue(client))
    assert "not a request of this platform" in caplog.text
    assert client.keys("rq:queue:*") == client.keys("rq:job:*") == []
    assert bench.executor.started == []


def test_a_job_that_an_older_platform_has_queued_is_run(bench: Bench, client: redis.Redis) -> None:
    request = a_run()
    client.hdel(Job.key_for(enqueue(client, request)), "token")
    bench.runs.serve(dequeue(client))
    assert [event.kind for event in events(client)] == ["started", "ended"]


def test_a_pickled_job_is_never_loaded(bench: Bench, client: redis.Redis) -> None:
    Queue("sync", connection=client).enqueue("os.getpid", job_id="job-1")
    bench.runs.serve(dequeue(client))
    assert client.keys("rq:job:*") == []


def test_a_wake_up_without_a_job_is_taken_away(bench: Bench, client: redis.Redis) -> None:
    client.rpush(PLACE.lines[0], "gone-1")
    bench.runs.serve(dequeue(client))
    assert client.llen(PLACE.intermediates[0]) == 0


def test_a_run_without_an_end_gives_its_lease_back_for_another_attempt(bench: Bench, client: redis.Redis) -> None:
    request = a_run()
    bench.executor.make = lambda *_: None
    bench.serve(request)
    assert [event.kind for event in events(client)] == ["started"]
    assert client.get(lease_key(request.execution_id, 1)) is None
    assert client.zcard(PLACE.started) == 0


# ---------------------------------------------------------------- cancel and lease


def test_an_execution_cancelled_while_queued_ends_without_a_start(bench: Bench, client: redis.Redis) -> None:
    request = a_run()
    client.set(cancel_key(request.execution_id), "1")
    bench.serve(request)
    (ended,) = events(client)
    assert isinstance(ended, RunEnded)
    assert (ended.status, ended.reason) == ("Cancelled", "cancelled")


def test_a_cancel_message_stops_a_run_at_once(bench: Bench, client: redis.Redis) -> None:
    request = a_run()
    thread = bench.begin(request)
    bench.leases.cancel(request.execution_id)
    thread.join(5)
    assert [event.kind for event in events(client)] == ["started", "ended"]
    assert cast(RunEnded, events(client)[1]).status == "Cancelled"


def test_a_cancel_key_is_seen_at_the_next_renewal(bench: Bench, client: redis.Redis) -> None:
    request = a_run()
    thread = bench.begin(request)
    client.set(cancel_key(request.execution_id), "1")
    bench.leases.renew()
    thread.join(5)
    assert cast(RunEnded, events(client)[1]).status == "Cancelled"


def test_a_renewal_lengthens_the_lease(bench: Bench, client: redis.Redis) -> None:
    request = a_run()
    bench.begin(request)
    key = lease_key(request.execution_id, 1)
    client.pexpire(key, 1000)
    bench.leases.renew()
    assert cast(int, client.pttl(key)) > 10_000


@pytest.mark.parametrize("value", [None, b"another"])
def test_a_run_whose_lease_is_not_its_own_any_more_is_stopped_without_an_end(
    bench: Bench, client: redis.Redis, value: bytes | None
) -> None:
    request = a_run()
    thread = bench.begin(request)
    key = lease_key(request.execution_id, 1)
    client.delete(key)
    if value:
        client.set(key, value)
    bench.leases.renew()
    thread.join(5)
    assert [event.kind for event in events(client)] == ["started"]
    assert client.get(key) == value


def test_a_run_whose_lease_could_not_be_renewed_is_stopped_before_it_runs_out(
    bench: Bench, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = bench.begin(a_run())
    bench.leases.expire()
    assert thread.is_alive()
    now = time.monotonic()
    monkeypatch.setattr("faaspot_runner.lease.time.monotonic", lambda: now + 10.1)
    bench.leases.expire()
    thread.join(5)
    assert [event.kind for event in events(client)] == ["started"]


@pytest.mark.parametrize("why", ["stopped", "lost"])
def test_a_worker_that_has_to_stop_leaves_its_runs_to_another_attempt(
    bench: Bench, client: redis.Redis, why: Ending
) -> None:
    request = a_run()
    thread = bench.begin(request)
    bench.leases.stop(why)
    thread.join(5)
    assert [event.kind for event in events(client)] == ["started"]
    assert client.get(lease_key(request.execution_id, 1)) is None


# ---------------------------------------------------------------- orphans


def test_a_wake_up_taken_by_a_dead_worker_is_queued_again_in_the_second_round(client: redis.Redis) -> None:
    name = enqueue(client, a_run())
    dequeue(client)
    seen = recover(client, PLACE, frozenset())
    assert seen == {name}
    assert client.llen(PLACE.lines[0]) == 0
    assert recover(client, PLACE, seen) == frozenset()
    assert client.lrange(PLACE.lines[0], 0, -1) == [name.encode()]
    assert client.llen(PLACE.intermediates[0]) == 0


def test_what_no_lease_keeps_alive_leaves_rqs_registry(bench: Bench, client: redis.Redis) -> None:
    alive, dead = a_run(), a_run()
    bench.begin(alive)
    bench.executor.began.clear()
    bench.begin(dead)
    client.delete(lease_key(dead.execution_id, 1))
    sweep_started(client, PLACE)
    registry = StartedJobRegistry("sync", connection=client, serializer=JSONSerializer)
    assert registry.get_job_ids() == [job_id(alive.execution_id, 1)]
    assert client.exists(Job.key_for(job_id(dead.execution_id, 1))) == 0


def test_rqs_own_maintenance_marks_nothing_of_ours_as_failed(bench: Bench, client: redis.Redis) -> None:
    request = a_run()
    bench.begin(request)
    queue = Queue("sync", connection=client, serializer=JSONSerializer)
    StartedJobRegistry(queue=queue).cleanup(timestamp=int(time.time()) + 10_000_000)
    clean_registries(queue)
    IntermediateQueue(PLACE.lines[0], client).cleanup(
        SpotWorker("sync", name="x", connection=client, runs=bench.runs, threads=1), queue
    )
    assert queue.failed_job_registry.count == 0
    assert queue.started_job_registry.count == 1
    assert client.hget(Job.key_for(job_id(request.execution_id, 1)), "status") == b"started"


# ---------------------------------------------------------------- Redis away


def test_an_end_outlives_a_restart_of_redis(short_path: Path) -> None:
    server = Valkey(short_path)
    server.start()
    try:
        with server.client() as client:
            bench = Bench(client)
            request = a_run(reply=True)
            thread = bench.begin(request)
            server.kill()
            bench.executor.go_on.set()
            thread.join(0.5)
            assert thread.is_alive()
            server.start()
            thread.join(10)
            assert [event.kind for event in events(client)] == ["started", "ended"]
            assert client.llen(reply_key(request.execution_id)) == 1
            bench.close()
    finally:
        server.stop()


def test_a_worker_at_the_end_of_its_grace_gives_up_on_an_absent_redis(short_path: Path) -> None:
    server = Valkey(short_path)
    server.start()
    try:
        with server.client() as client:
            bench = Bench(client)
            thread = bench.begin(a_run())
            server.kill()
            bench.executor.go_on.set()
            bench.hurry.set()
            thread.join(10)
            assert not thread.is_alive()
            assert bench.executor.settled == 1
            bench.close()
    finally:
        server.stop()


# ---------------------------------------------------------------- live log


def test_a_run_that_lasts_is_followed_and_a_short_one_has_no_live_log(bench: Bench, client: redis.Redis) -> None:
    short, long = a_run(), a_run()
    bench.serve(short)
    thread = bench.begin(long)
    answer = client.xread({log_key(long.execution_id): "0"}, block=5000)
    assert answer[0][1][0][1] == {b"text": b"line\n"}  # type: ignore[index]
    bench.executor.go_on.set()
    thread.join(5)
    assert client.exists(log_key(short.execution_id)) == 0
    assert 0 < cast(int, client.ttl(log_key(long.execution_id))) <= 120


# ---------------------------------------------------------------- the RQ worker


def test_rq_info_shows_the_worker_its_queue_and_its_counts(bench: Bench, client: redis.Redis, valkey: Valkey) -> None:
    worker = SpotWorker("sync", name="w1", connection=client, runs=bench.runs, threads=4)
    worker._announce()
    thread = bench.begin(a_run())
    rq = Path(sys.executable).with_name("rq")
    text = subprocess.run([rq, "info", "--url", valkey.url, "--raw"], capture_output=True, text=True, check=True).stdout
    assert "queue sync 0, 1 executing, 0 finished, 0 failed" in text
    assert "worker w1" in text
    assert " busy sync. jobs: 0 finished, 0 failed" in text
    bench.executor.go_on.set()
    thread.join(5)
    worker.beat(client)
    text = subprocess.run([rq, "info", "--url", valkey.url, "--raw"], capture_output=True, text=True, check=True).stdout
    assert " idle sync. jobs: 1 finished, 0 failed" in text


def test_a_heartbeat_registers_the_worker_anew_when_redis_came_back_empty(bench: Bench, client: redis.Redis) -> None:
    worker = SpotWorker("sync", name="w1", connection=client, runs=bench.runs, threads=4)
    worker._announce()
    client.flushall()
    worker.beat(client)
    assert [each.name for each in Worker.all(connection=client)] == ["w1"]
