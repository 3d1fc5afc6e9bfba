"""Lanes and turns, both halves of the platform and a real server: the API enqueues, a worker takes and ends."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import redis

from faaspot_api.queue.base import Attempt
from faaspot_api.queue.jobs import enqueueing
from faaspot_api.queue.placement import Placed
from faaspot_api.queue.rq import RedisQueue
from faaspot_api.queue.users import SpotUsers
from faaspot_runner.contract import (
    QUEUE_BACKGROUND,
    QUEUE_BUILDS,
    QUEUE_SYNC,
    SPOTS,
    BuildRequest,
    RunEnded,
    RunRequest,
    SandboxSpec,
    SpotInfo,
    dump,
    lease_key,
    load_spot,
)
from faaspot_runner.contract.lanes import CAPACITY, SHARE, WAITING
from faaspot_runner.contract.scripts import SCRIPTS
from faaspot_runner.contract.spots import own_line, spot_user
from faaspot_runner.lease import Lease, Leases, Place, RedisClock, job_key
from faaspot_runner.report import Reporter
from tests.redis_servers import RedisServer, running_redis

HERE, THERE = "127.0.0.1", "10.0.0.2"
SPEC = SandboxSpec(version_id="v1", deployment="many", version=1, runtime="sandbox", python="3.11", code="c0de")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    client = server.client()
    client.flushall()
    yield client
    client.close()


def runs(name: str, count: int, tag: str = "run", **more: Any) -> list[RunRequest]:
    """`count` runs of the deployment `name`."""
    spec = replace(SPEC, deployment=name)
    ids = (f"{name}-{tag}-{n}" for n in range(count))
    return [RunRequest(execution_id=each, attempt=1, token=f"t-{each}", sandbox=spec, **more) for each in ids]


def put(client: redis.Redis, line: str, requests: list[RunRequest]) -> None:
    """Enqueue into just this line."""
    for command in enqueueing([Placed(request=each, line=line) for each in requests]):
        client.execute_command(*command)


def as_user(client: redis.Redis, user: str, password: str) -> redis.Redis:
    """The same server as another user sees it."""
    pool = client.connection_pool
    settings = {**pool.connection_kwargs, "username": user, "password": password}
    return redis.Redis(connection_pool=redis.ConnectionPool(pool.connection_class, **settings))


class Worker:
    """The parts of a worker that speak to Redis, without the process around them; of a spot of its own."""

    def __init__(
        self, client: redis.Redis, queue: str, threads: int = 8, spot: str = HERE, remote: bool = False
    ) -> None:
        self.redis = client
        self.place = Place(queue=queue, worker=f"{spot}.{queue}", spot=spot, remote=remote)
        own = as_user(client, spot_user(spot), SpotUsers(client).admit(spot)) if remote else client
        for script in SCRIPTS if remote else ():
            client.script_load(script)
        self.leases = Leases(own, self.place, spot, RedisClock())
        self.reporter = Reporter(own, self.place, lambda _: True)
        self.threads = threads
        self.tell(threads)

    def tell(self, threads: int) -> None:
        """The spot's heartbeat."""
        text = self.redis.hget(SPOTS, self.place.spot)
        rooms = load_spot(text).rooms if text else {}
        info = SpotInfo(
            ip=self.place.spot, created=1.0, last_seen=time.time(), status="online", runtimes=("sandbox",),
            pythons={"3.11": "3.11.1"}, networks=("none",), limits="rlimit", rooms={**rooms, self.place.queue: threads},
        )  # fmt: skip
        self.redis.hset(SPOTS, info.ip, dump(info))
        self.tend()

    def tend(self) -> int:
        return RedisQueue(self.redis).tend()

    def take(self) -> Lease | None:
        """The next that there is to run."""
        for line, taken in zip(self.place.lines, self.place.intermediates, strict=True):
            while identifier := self.redis.lmove(line, taken, "LEFT", "RIGHT"):
                if lease := self.leases.claim(cast(bytes, identifier).decode()):
                    return lease
        return None

    def all(self) -> list[Lease]:
        """All that may run now."""
        found = []
        while lease := self.take():
            found.append(lease)
        return found

    def end(self, lease: Lease) -> None:
        request = lease.request
        ended = RunEnded(
            execution_id=request.execution_id, attempt=1, token=request.token, spot="127.0.0.1", at=1.0,
            status="Success",
        )  # fmt: skip
        self.reporter.ended(lease, ended, reply=False, live=False, busy=False)
        self.leases.drop(lease)

    def die(self, lease: Lease) -> None:
        """The lease of a killed worker runs out, and its job is swept up."""
        self.redis.delete(lease_key(lease.request.execution_id, 1), job_key(lease.job))
        self.leases.drop(lease)


def names(leases: list[Lease]) -> list[str]:
    return [lease.request.execution_id for lease in leases]


def test_ten_thousand_waiting_runs_of_one_keep_nobody_else_waiting(client: redis.Redis) -> None:
    queue, background = RedisQueue(client), Worker(client, QUEUE_BACKGROUND, threads=8)
    sync = Worker(client, QUEUE_SYNC, threads=8)
    queue.enqueue_runs(runs("many", 10_000), QUEUE_BACKGROUND)

    assert len(background.all()) == 6, "a quarter of the turns is left to others"
    queue.enqueue_run(runs("other", 1)[0], QUEUE_BACKGROUND)
    assert names(background.all()) == ["other-run-0"]
    queue.enqueue_run(runs("other", 1, tag="sync")[0], QUEUE_SYNC)
    assert names(sync.all()) == ["other-sync-0"]


def test_with_all_turns_taken_the_others_are_next_and_not_behind_the_many(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND, threads=2)
    queue.enqueue_runs(runs("many", 100), QUEUE_BACKGROUND)
    running = worker.all()
    for other in ("b", "c"):
        queue.enqueue_runs(runs(other, 2), QUEUE_BACKGROUND)
    served = []
    for _ in range(3):
        worker.end(running.pop(0))
        running += (taken := worker.all())
        served += names(taken)
    assert served[:2] == ["b-run-0", "c-run-0"]


def test_those_that_want_all_share_evenly(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND, threads=40)
    running: list[Lease] = []
    for name in "abc":
        queue.enqueue_runs(runs(name, 1000), QUEUE_BACKGROUND)
    for _ in range(300):
        running += worker.all()
        worker.end(running.pop(0))
    share = 40 * SHARE / (1 + 3 * SHARE)
    for count in Counter(lease.request.sandbox.deployment for lease in running).values():  # type: ignore[union-attr]
        assert share - 2 <= count <= share + 2


def test_no_more_run_at_once_than_the_deployment_says_over_all_workers_and_queues(client: redis.Redis) -> None:
    queue = RedisQueue(client)
    one, two = (Worker(client, QUEUE_BACKGROUND, spot=ip, remote=ip != HERE) for ip in (HERE, THERE))
    sync = Worker(client, QUEUE_SYNC)
    queue.enqueue_runs(runs("many", 5, concurrency=2), QUEUE_BACKGROUND)
    first, second = one.take(), two.take()
    assert first
    assert second
    queue.enqueue_runs(runs("many", 2, tag="sync", concurrency=2), QUEUE_SYNC)
    assert [*one.all(), *two.all(), *sync.all()] == []

    one.end(first)
    assert one.take() is None, "sync goes before background"
    assert names(sync.all()) == ["many-sync-0"]
    two.end(second)
    assert sync.all() == [], "a spot on another host says that a turn has ended, and gives it to nobody"
    queue.settle(1.0)
    assert names(sync.all()) == ["many-sync-1"]
    assert queue.lengths() == {"sync": 0, "background": 3, "builds": 0, "reports": 6}


def test_a_changed_concurrency_counts_from_the_next_run_on(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND)
    queue.enqueue_runs(runs("many", 4, concurrency=1), QUEUE_BACKGROUND)
    assert len(worker.all()) == 1
    queue.enqueue_runs(runs("many", 1, tag="more", concurrency=3), QUEUE_BACKGROUND)
    assert len(worker.all()) == 2
    queue.enqueue_runs(runs("many", 1, tag="last"), QUEUE_BACKGROUND)
    assert len(worker.all()) == 3


def test_a_changed_concurrency_counts_for_what_waits_already(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND)
    queue.enqueue_runs(runs("many", 9, concurrency=1), QUEUE_BACKGROUND)
    assert len(worker.all()) == 1
    for most in (3, 0):
        queue.limit({"many": most})
        worker.tend()
        assert len(worker.all()) == (2 if most else 3)
    assert queue.concurrency() == {}


def test_what_waits_in_two_lines_has_one_turn_and_leaves_nothing_behind(client: redis.Redis) -> None:
    """As when the connection breaks in which it was enqueued, and another spot is chosen meanwhile."""
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND, spot=THERE)
    for round_ in range(3):
        requests = runs("many", 4, tag=str(round_), concurrency=2)
        for line in (own_line(QUEUE_BACKGROUND, THERE), QUEUE_BACKGROUND):
            put(client, line, requests)
        served = []
        while running := worker.all():
            assert len(running) <= 2
            for lease in running:
                served.append(lease.request.execution_id)
                worker.end(lease)
        assert sorted(served) == [one.execution_id for one in requests]
    worker.tend()
    assert queue.lengths()["background"] == 0
    for kind in ("lane:*", "lanes:*", "turns:*"):
        assert not client.keys(f"faaspot:{kind}")


def test_the_turns_of_a_killed_worker_come_back_with_its_leases(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND)
    queue.enqueue_runs(runs("many", 2, concurrency=1), QUEUE_BACKGROUND)
    lease = worker.take()
    assert lease
    worker.tend()
    assert worker.take() is None, "its lease still holds the turn"
    worker.die(lease)
    worker.tend()
    assert names(worker.all()) == ["many-run-1"]


def test_what_nobody_took_before_its_worker_died_keeps_its_turn(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND)
    queue.enqueue_runs(runs("many", 2, concurrency=1), QUEUE_BACKGROUND)
    client.lmove(worker.place.lines[0], worker.place.intermediates[0], "LEFT", "RIGHT")
    worker.tend()
    assert worker.take() is None


def test_a_lost_queue_is_made_good_by_saying_it_again(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND)
    requests = runs("many", 3, concurrency=1)
    queue.enqueue_runs(requests, QUEUE_BACKGROUND)
    client.delete(worker.place.lines[0])
    attempts = [Attempt(execution_id=one.execution_id, attempt=1) for one in requests]
    assert queue.queued(attempts) == frozenset(attempts[1:])
    queue.enqueue_run(requests[0], QUEUE_BACKGROUND)
    assert names(worker.all()) == ["many-run-0"]


def test_runs_that_were_cancelled_while_they_waited_are_passed_over(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND)
    requests = runs("many", 50, concurrency=2)
    queue.enqueue_runs(requests, QUEUE_BACKGROUND)
    queue.delete_jobs([Attempt(execution_id=one.execution_id, attempt=1) for one in requests[:49]])
    assert names(worker.all()) == ["many-run-49"]


def test_saying_it_again_makes_no_second_wherever_it_stands(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND)
    requests = runs("many", 3, concurrency=1)
    for _ in range(3):
        queue.enqueue_runs(requests, QUEUE_BACKGROUND)
    served = []
    while lease := worker.take():
        served.append(lease.request.execution_id)
        worker.end(lease)
    assert served == ["many-run-0", "many-run-1", "many-run-2"]


def test_what_gives_its_run_up_ends_its_turn(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND)
    queue.enqueue_runs(runs("many", 2, concurrency=1), QUEUE_BACKGROUND)
    lease = worker.take()
    assert lease
    worker.reporter.dropped(lease, busy=False)
    assert names(worker.all()) == ["many-run-1"]


def test_a_second_delivery_leaves_the_turn_to_the_first(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND)
    queue.enqueue_runs(runs("many", 2, concurrency=1), QUEUE_BACKGROUND)
    lease = worker.take()
    assert lease
    client.lpush(worker.place.lines[0], lease.job)
    assert worker.take() is None
    worker.end(lease)
    assert names(worker.all()) == ["many-run-1"]


def test_builds_are_shared_too_and_have_no_limit_of_their_own(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BUILDS, threads=4)
    for name, count in (("many", 9), ("other", 1)):
        for n in range(count):
            queue.enqueue_build(
                BuildRequest(execution_id=f"{name}-{n}", attempt=1, token="t", deployment=name, version=n,
                             version_id=f"v{n}", requirements="", python="3.11")
            )  # fmt: skip
    assert names(worker.all()) == ["many-0", "many-1", "many-2", "other-0"]


def test_a_spot_that_falls_silent_or_drains_has_no_turns_to_give(client: redis.Redis) -> None:
    one = Worker(client, QUEUE_BACKGROUND, 8)
    Worker(client, QUEUE_BACKGROUND, 4, spot=THERE)
    assert client.hgetall(CAPACITY)[b"background"] == b"12"
    info = load_spot(cast(bytes, client.hget(SPOTS, THERE)))
    for gone in (replace(info, status="draining"), replace(info, last_seen=info.last_seen - 60)):
        client.hset(SPOTS, THERE, dump(gone))
        one.tend()
        assert client.hgetall(CAPACITY)[b"background"] == b"8"


def test_turns_in_a_spots_own_line_count_there_and_in_the_queue(client: redis.Redis) -> None:
    """The spot has 4 threads, the platform 12: one deployment gets 3 turns of the spot, and 9 in all."""
    here = Worker(client, QUEUE_BACKGROUND, 8)
    there = Worker(client, QUEUE_BACKGROUND, 4, spot=THERE, remote=True)
    queue, own = RedisQueue(client), own_line(QUEUE_BACKGROUND, THERE)
    put(client, own, runs("many", 20, tag="own"))
    put(client, QUEUE_BACKGROUND, runs("many", 20, tag="any"))
    put(client, own, runs("other", 1))
    assert (client.llen(f"rq:queue:{own}"), client.llen("rq:queue:background")) == (4, 6)
    assert queue.lengths()["background"] == 41
    assert len([name for name in names(there.all()) if name.startswith(("other", "many-own"))]) == 4
    assert not any("own" in name for name in names(here.all()))
    client.hset(SPOTS, THERE, dump(replace(load_spot(cast(bytes, client.hget(SPOTS, THERE))), last_seen=1.0)))
    assert len(queue.strand()) == 17, "those that run there are not there to be taken back"
    assert queue.lengths()["background"] == 14


def test_concurrency_counts_over_all_lines(client: redis.Redis) -> None:
    there = Worker(client, QUEUE_BACKGROUND, 4, spot=THERE, remote=True)
    put(client, own_line(QUEUE_BACKGROUND, THERE), runs("many", 2, tag="own", concurrency=1))
    put(client, QUEUE_BACKGROUND, runs("many", 2, tag="any", concurrency=1))
    served = []
    for _ in range(4):
        (lease,) = there.all()
        served.append(lease.request.execution_id)
        there.end(lease)
        RedisQueue(client).settle(1.0)
    assert sorted(served) == ["many-any-0", "many-any-1", "many-own-0", "many-own-1"]


def test_what_waits_for_room_is_told_to_spots_that_could_have_more_workers(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND, threads=4)
    queue.enqueue_runs(runs("many", 20), QUEUE_BACKGROUND)
    queue.enqueue_runs(runs("limited", 20, concurrency=1), QUEUE_BACKGROUND)
    worker.tend()
    assert client.hgetall(WAITING) == {b"background": b"17"}, "more workers would not help the one with a limit"


def test_who_enqueues_lets_those_go_on_whose_turn_it_is(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND, spot=THERE, remote=True)
    queue.enqueue_runs(runs("many", 2, concurrency=1), QUEUE_BACKGROUND)
    (lease,) = worker.all()
    worker.end(lease)
    assert worker.all() == []
    queue.enqueue_run(runs("other", 1)[0], QUEUE_BACKGROUND)
    assert names(worker.all()) == ["many-run-1", "other-run-0"]


def test_nothing_is_left_when_all_have_ended(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND, threads=4)
    queue.enqueue_runs(runs("many", 20) + runs("other", 5, concurrency=1), QUEUE_BACKGROUND)
    while lease := worker.take():
        worker.end(lease)
    for kind in ("lane:*", "lanes:*", "turns:*"):
        assert not client.keys(f"faaspot:{kind}")


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_each_run_has_its_turn_and_no_limit_is_passed(client: redis.Redis, seed: int) -> None:
    chance, queue = random.Random(seed), RedisQueue(client)
    limits = {"a": 0, "b": 1, "c": 3}
    remote = {QUEUE_SYNC: THERE, QUEUE_BACKGROUND: "10.0.0.3"}
    workers = [Worker(client, each, threads=3) for each in remote]
    workers += [Worker(client, each, threads=3, spot=ip, remote=True) for each, ip in remote.items()]
    running: list[tuple[Worker, Lease]] = []
    started: Counter[str] = Counter()
    asked = 0

    def step(worker: Worker) -> None:
        if lease := worker.take():
            started[lease.request.execution_id] += 1
            running.append((worker, lease))
        of = Counter(one.request.sandbox.deployment for _, one in running)  # type: ignore[union-attr]
        assert all(not most or of[name] <= most for name, most in limits.items())

    for at in range(400):
        worker, name = chance.choice(workers), chance.choice("abc")
        match chance.choice(("enqueue", "take", "take", "end", "die", "tend", "settle")):
            case "enqueue":
                count = chance.randrange(1, 5)
                line = chance.choice((worker.place.queue, own_line(worker.place.queue, worker.place.spot)))
                put(client, line, runs(name, count, tag=str(at), concurrency=limits[name]))
                asked += count
            case "take":
                step(worker)
            case "tend":
                worker.tend()
            case "settle":
                queue.settle(0.001)
            case ending if running:
                owner, lease = running.pop(chance.randrange(len(running)))
                owner.end(lease) if ending == "end" else owner.die(lease)
    while running or any(queue.lengths()[name] for name in ("sync", "background")):
        for worker in workers:
            worker.tend()
            step(worker)
        while running:
            owner, lease = running.pop()
            owner.end(lease)
    assert len(started) == asked
    assert set(started.values()) == {1}
