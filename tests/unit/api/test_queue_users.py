"""What the Redis user of a spot on another host may do, tried on the private server: its part, and nothing else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from faaspot_api.queue import embedded
from faaspot_api.queue.base import Attempt
from faaspot_api.queue.rq import RedisQueue
from faaspot_api.queue.users import SpotUsers, UsersRefusedError
from faaspot_runner.contract import (
    CONTROL,
    ENVIRONMENTS,
    REPORTS,
    RUNTIMES,
    SPOTS,
    SUPERVISOR,
    RunRequest,
    SandboxSpec,
    cancel_key,
    dump,
    lease_key,
    log_key,
    reply_key,
)
from faaspot_runner.contract.scripts import RENEW, digest
from faaspot_runner.contract.spots import JOINED, WISHES, Wish, spot_key, spot_user
from tests.control_plane import a_spot
from tests.redis_servers import PASSWORD, RedisServer, running_redis

IP, OTHER = "10.0.0.2", "10.0.0.3"
ATTEMPT = Attempt(execution_id="x", attempt=1)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(scope="module")
def spot(server: RedisServer) -> Iterator[redis.Redis]:
    with server.client() as own:
        password = SpotUsers(own).admit(IP)
        RedisQueue(own).wish({}, [IP])
    with connected(server, spot_user(IP), password) as client:
        yield client


def connected(server: RedisServer, user: str, password: str) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(server.prepared.socket), username=user, password=password)


ALLOWED = [
    ("BLMOVE", "rq:queue:sync", "rq:queue:sync:intermediate", "LEFT", "RIGHT", "0.01"),
    ("BLMOVE", f"rq:queue:builds@{IP}", f"rq:queue:builds@{IP}:intermediate", "LEFT", "RIGHT", "0.01"),
    ("HSET", "rq:job:x-1", "status", "started"),
    ("HSET", f"rq:worker:{IP}.sync.1.abc", "state", "busy"),
    ("SET", lease_key("x", 1), "token"),
    ("SET", spot_key(IP), "{}"),
    ("HMGET", WISHES, IP, "*"),
    ("GET", RUNTIMES),
    ("GET", ENVIRONMENTS),
    ("XADD", REPORTS, "*", "event", "{}"),
    ("EXISTS", cancel_key("x")),
    ("EVALSHA", digest(RENEW), "1", lease_key("x", 1), "token", "100", cancel_key("x")),
    ("TIME",),
    ("SELECT", "0"),
]
REFUSED = [
    ("BLMOVE", f"rq:queue:sync@{OTHER}", f"rq:queue:sync@{OTHER}:intermediate", "LEFT", "RIGHT", "0.01"),
    ("HSET", f"rq:worker:{OTHER}.sync.1.abc", "state", "busy"),
    ("SET", spot_key(OTHER), "{}"),
    ("HSET", SPOTS, OTHER, "{}"),
    ("SADD", JOINED, OTHER),
    ("HSET", WISHES, OTHER, "{}"),
    ("SET", RUNTIMES, "{}"),
    ("SET", ENVIRONMENTS, "[]"),
    ("SET", cancel_key("x"), "1"),
    ("DEL", cancel_key("x")),
    ("DEL", REPORTS),
    ("XRANGE", REPORTS, "-", "+"),
    ("RPUSH", SUPERVISOR, "{}"),
    ("PUBLISH", CONTROL, "{}"),
    ("SUBSCRIBE", "another"),
    ("EVALSHA", digest(RENEW), "1", lease_key("x", 1), "token", "100", SUPERVISOR),
    ("EVAL", "while true do end", "0"),
    ("SCRIPT", "LOAD", "while true do end"),
    ("SCRIPT", "FLUSH"),
    ("SELECT", "1"),
    ("KEYS", "*"),
    ("FLUSHALL",),
    ("ACL", "WHOAMI"),
    ("CLIENT", "LIST"),
]


@pytest.mark.parametrize("command", ALLOWED, ids=" ".join)
def test_a_spot_may_do_its_part(spot: redis.Redis, command: tuple[str, ...]) -> None:
    spot.execute_command(*command)


@pytest.mark.parametrize("command", REFUSED, ids=" ".join)
def test_a_spot_may_do_nothing_else(spot: redis.Redis, command: tuple[str, ...]) -> None:
    with pytest.raises((redis.exceptions.NoPermissionError, redis.ResponseError), match=r"(?i)permission"):
        spot.execute_command(*command)


@pytest.mark.parametrize(
    "changes",
    [{"last_seen": "now"}, {"capacity": None, "warm": ["v"]}, {"running": []}, {"last_seen": 1e10}, {"x": [[]] * 99}],
    ids=repr,
)
def test_nothing_that_a_spot_says_of_itself_stops_anybody_else(
    server: RedisServer, spot: redis.Redis, changes: dict[str, Any]
) -> None:
    info = a_spot(IP, pythons={"3.12": "3.12.1"})
    spec = SandboxSpec(version_id="v", deployment="d", version=1, runtime="sandbox", python="3.12", code="c")
    with server.client() as own:
        queue = RedisQueue(own)
        queue.wish({}, [IP])
        seconds, _ = own.time()
        own.hset(SPOTS, "127.0.0.1", dump(replace(info, ip="127.0.0.1", last_seen=seconds)))
        for said in (json.dumps({**json.loads(dump(info)), **changes}), "[" * 100_000):
            spot.set(spot_key(IP), said)
            assert [seen.info.ip for seen in queue.spots() if seen.is_online] == ["127.0.0.1"]
            queue.enqueue_run(RunRequest(execution_id="e", attempt=1, token="t", sandbox=spec), "sync")
        assert not SpotUsers(own).stands(IP)
        queue.wish({}, [])


def test_nothing_that_a_bad_spot_left_lasts_longer_than_it_does(server: RedisServer) -> None:
    with server.client() as own:
        users = SpotUsers(own)
        bad, good = ATTEMPT, replace(ATTEMPT, attempt=2)
        with connected(server, spot_user(OTHER), users.admit(OTHER)) as client:
            client.set(lease_key("x", 1), "for ever")
            client.set(log_key("y"), "x" * 1000)
            client.set(reply_key("z"), "x", ex=10**8)
        own.set(lease_key("x", 2), "token", px=15_000)
        assert RedisQueue(own).leases([bad, good]) == ("held", "held")
        users.dismiss(OTHER)
        assert RedisQueue(own).leases([bad, good]) == ("none", "held")
        assert not own.exists(log_key("y"), reply_key("z"))


def test_a_removed_spot_that_keeps_the_server_full_is_shown_out_at_once() -> None:
    """Nobody could write a request to do it, nor take one up."""
    with running_redis(more="maxmemory 16mb\n") as small, small.client() as own:
        password = SpotUsers(own).admit(IP)
        with connected(small, spot_user(IP), password) as bad:
            with contextlib.suppress(redis.OutOfMemoryError):
                for number in range(1000):
                    bad.set(log_key(str(number)), b"x" * 100_000)
            with pytest.raises(redis.OutOfMemoryError):
                own.set("anything", b"x" * 100_000)
            queue = RedisQueue(own)
            queue.wish({IP: Wish(draining=True, leaving=True)}, [IP])
            with pytest.raises((redis.ConnectionError, redis.AuthenticationError)):
                bad.ping()
        queue.ping()
        assert queue.has_room()


def test_who_had_the_old_credentials_is_cut_off_by_new_ones(server: RedisServer) -> None:
    with server.client() as own:
        users = SpotUsers(own)
        old = users.admit(OTHER)
        with connected(server, spot_user(OTHER), old) as client:
            assert client.ping()
            new = users.admit(OTHER)
            with pytest.raises((redis.ConnectionError, redis.AuthenticationError)):
                client.ping()
        with connected(server, spot_user(OTHER), new) as client:
            assert client.ping()
        users.dismiss(OTHER)


def test_the_users_are_kept_over_a_restart_and_a_dismissed_one_is_not() -> None:
    with running_redis() as server:
        with server.client() as own:
            users = SpotUsers(own)
            kept, gone = users.admit(IP), users.admit(OTHER)
            users.dismiss(OTHER)
            users.dismiss(OTHER)  # harmless
        server.stop()
        embedded.prepare(server.prepared.directory, PASSWORD)
        server.process = RedisServer(server.prepared).process
        for user, password in ((spot_user(IP), kept), ("default", PASSWORD)):
            with connected(server, user, password) as client:
                assert client.ping()
        for user, password in ((spot_user(OTHER), gone), ("default", "another"), ("default", "")):
            with connected(server, user, password) as client, pytest.raises(redis.AuthenticationError):
                client.ping()


def test_a_server_that_makes_no_users_for_us_says_so() -> None:
    with running_redis() as server, server.client() as own:
        own.execute_command("ACL", "SETUSER", "small", "reset", "on", ">x", "~*", "&*", "+@all", "-acl")
        with connected(server, "small", "x") as client, pytest.raises(UsersRefusedError, match=r"\+acl"):
            SpotUsers(client).admit(IP)
