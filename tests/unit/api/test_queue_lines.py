"""The spots' own lines on a real server: what goes into them, how it counts, how it comes back out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from faaspot_api.queue.base import Attempt
from faaspot_api.queue.rq import RedisQueue
from faaspot_runner.contract import SPOTS, RunRequest, SandboxSpec, SpotInfo, dump
from faaspot_runner.contract.spots import EVERY, WARM, WISHES, Warm, Wish, spot_key
from tests.redis_servers import running_redis

SPEC = SandboxSpec(version_id="v1", deployment="d", version=1, runtime="sandbox", python="3.12", code="c")
RUN = RunRequest(execution_id="run-1", attempt=1, token="t", sandbox=SPEC)
ATTEMPT = Attempt(execution_id="run-1", attempt=1)
OWN = "rq:queue:background@10.0.0.2"


@pytest.fixture(scope="module")
def server() -> Iterator[redis.Redis]:
    with running_redis() as server, server.client() as client:
        yield client


@pytest.fixture
def client(server: redis.Redis) -> redis.Redis:
    server.flushall()
    return server


def tell(client: redis.Redis, ip: str, *, age: float = 0.0, **more: object) -> SpotInfo:
    info = SpotInfo(
        ip=ip, created=1.0, last_seen=time.time() - age, status="online", runtimes=("sandbox",),
        pythons={"3.12": "3.12.1"}, networks=("none",), limits="rlimit", rooms={"sync": 5, "background": 5},
    )  # fmt: skip
    info = replace(info, **more)  # type: ignore[arg-type]
    client.hset(SPOTS, ip, dump(info))
    return info


def test_a_wake_up_in_an_own_line_counts_and_is_found_as_any_other(client: redis.Redis) -> None:
    tell(client, "10.0.0.1")
    tell(client, "10.0.0.2", warm=("v1",))
    queue = RedisQueue(client)
    for _ in range(2):
        queue.enqueue_run(RUN, "background")
        assert client.lrange(OWN, 0, -1) == [b"run-1-1"]
    assert queue.lengths()["background"] == 1
    assert queue.queued([ATTEMPT]) == {ATTEMPT}


def test_what_stands_or_stood_before_a_spot_that_is_gone_comes_back(client: redis.Redis) -> None:
    tell(client, "10.0.0.1")
    tell(client, "10.0.0.2", warm=("v1",))
    queue = RedisQueue(client)
    queue.enqueue_runs([RUN, replace(RUN, execution_id="run-2"), replace(RUN, execution_id="run-3")], "background")
    client.lmove(OWN, f"{OWN}:intermediate")
    assert queue.strand() == frozenset()
    tell(client, "10.0.0.2", warm=("v1",), status="draining")
    assert queue.strand() == {"run-1", "run-2", "run-3"}
    assert queue.strand() == frozenset()
    later = RedisQueue(client)
    later.enqueue_run(RUN, "background")
    assert client.lrange("rq:queue:background", 0, -1) == [b"run-1-1"]


def test_only_who_was_let_in_is_heard_and_each_for_itself_alone(client: redis.Redis) -> None:
    queue = RedisQueue(client)
    info = tell(client, "10.0.0.1")
    for ip, says in (("10.0.0.2", "10.0.0.2"), ("10.0.0.3", "10.0.0.3"), ("10.0.0.4", "10.0.0.1")):
        client.set(spot_key(ip), dump(replace(info, ip=says, remote=False)))
    queue.wish({}, ["10.0.0.2", "10.0.0.4", "10.0.0.5"])
    assert [(seen.info.ip, seen.info.remote) for seen in queue.spots()] == [("10.0.0.1", False), ("10.0.0.2", True)]
    queue.wish({}, [])
    assert [seen.info.ip for seen in queue.spots()] == ["10.0.0.1"]


def test_a_wish_replaces_all_earlier_ones(client: redis.Redis) -> None:
    queue = RedisQueue(client)
    queue.wish({"10.0.0.1": Wish(draining=True), EVERY: Wish(least=1)}, [])
    queue.wish({EVERY: Wish(most=3)}, [])
    kept = client.hgetall(WISHES)
    assert list(kept) == [b"*"]
    assert Wish.of(None, kept[b"*"]) == Wish(most=3)


def test_what_shall_stand_ready_is_told_to_each_spot_and_replaces_what_was_told(client: redis.Redis) -> None:
    queue, warm = RedisQueue(client), Warm((SPEC,))
    queue.keep_warm({"10.0.0.1": warm, "10.0.0.2": warm})
    queue.keep_warm({"10.0.0.2": warm})
    assert {ip: Warm.of(text) for ip, text in client.hgetall(WARM).items()} == {b"10.0.0.2": warm}
    queue.keep_warm({})
    assert client.hgetall(WARM) == {}


def test_a_line_of_nobody_is_forgotten_until_something_stands_in_it(client: redis.Redis) -> None:
    """Each costs a look at every pass, and a spot may name as many as it likes."""
    tell(client, "10.0.0.1")
    tell(client, "10.0.0.2", age=60, warm=("v1",))
    queue = RedisQueue(client)
    client.sadd("rq:queues", "rq:queue:sync", OWN, *(f"rq:queue:sync@{number}" for number in range(100)))
    queue.strand()
    assert client.smembers("rq:queues") == {b"rq:queue:sync"}
    tell(client, "10.0.0.2", warm=("v1",))
    queue = RedisQueue(client)
    queue.enqueue_run(RUN, "background")
    assert queue.queued([ATTEMPT]) == {ATTEMPT}
