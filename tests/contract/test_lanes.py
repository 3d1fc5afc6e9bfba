"""Lanes and turns, both halves of the platform and a real server: the API enqueues, a worker takes and ends."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import redis

from faaspot_api.queue.base import Attempt
from faaspot_api.queue.rq import RedisQueue
from faaspot_runner.contract import (
    QUEUE_BACKGROUND,
    QUEUE_BUILDS,
    QUEUE_SYNC,
    BuildRequest,
    RunEnded,
    RunRequest,
    SandboxSpec,
    lease_key,
)
from faaspot_runner.contract.lanes import SHARE
from faaspot_runner.lanes import Lanes
from faaspot_runner.lease import Lease, Leases, Place, RedisClock, job_key
from faaspot_runner.report import Reporter
from tests.redis_servers import RedisServer, running_redis

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


class Worker:
    """The parts of a worker that speak to Redis, without the process around them."""

    def __init__(self, client: redis.Redis, queue: str, threads: int = 8, name: str = "w1") -> None:
        self.redis = client
        self.place = Place(queue=queue, worker=name)
        self.leases = Leases(client, self.place, "127.0.0.1", RedisClock())
        self.reporter = Reporter(client, self.place, lambda _: True)
        self.lanes = Lanes(self.place, threads)
        self.tend()

    def tend(self) -> None:
        self.redis.delete(f"faaspot:tended:{self.place.queue}")
        self.lanes.tend(self.redis)

    def take(self) -> Lease | None:
        """The next that there is to run."""
        while identifier := self.redis.lmove(self.place.waiting, self.place.intermediate, "LEFT", "RIGHT"):
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

    many = background.all()
    assert [lease.turns for lease in many] == [6] * 6, "a quarter of the turns is left to others"
    queue.enqueue_run(runs("other", 1)[0], QUEUE_BACKGROUND)
    (other,) = background.all()
    assert (other.request.execution_id, other.turns) == ("other-run-0", 1)
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
    one, two = (Worker(client, QUEUE_BACKGROUND, name=name) for name in ("w1", "w2"))
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
    client.lmove(worker.place.waiting, worker.place.intermediate, "LEFT", "RIGHT")
    worker.tend()
    assert worker.take() is None


def test_a_lost_queue_is_made_good_by_saying_it_again(client: redis.Redis) -> None:
    queue, worker = RedisQueue(client), Worker(client, QUEUE_BACKGROUND)
    requests = runs("many", 3, concurrency=1)
    queue.enqueue_runs(requests, QUEUE_BACKGROUND)
    client.delete(worker.place.waiting)
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
    client.lpush(worker.place.waiting, lease.job)
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


def test_a_worker_that_leaves_or_falls_silent_counts_no_more(client: redis.Redis) -> None:
    one, two = Worker(client, QUEUE_BACKGROUND, 8), Worker(client, QUEUE_BACKGROUND, 4, name="w2")
    capacity = "faaspot:capacity:background"
    assert client.get(capacity) == b"12"
    two.lanes.leave(client)
    one.tend()
    assert client.get(capacity) == b"8"
    client.zadd("faaspot:workers:background", {"w3 64": 1})
    one.tend()
    assert client.get(capacity) == b"8"


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
    workers = [Worker(client, each, threads=3, name=f"{each}-1") for each in (QUEUE_SYNC, QUEUE_BACKGROUND)]
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
        match chance.choice(("enqueue", "take", "take", "end", "die", "tend")):
            case "enqueue":
                count = chance.randrange(1, 5)
                queue.enqueue_runs(runs(name, count, tag=str(at), concurrency=limits[name]), worker.place.queue)
                asked += count
            case "take":
                step(worker)
            case "tend":
                worker.tend()
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
