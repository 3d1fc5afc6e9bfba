"""What the Redis user of a spot on another host may do, tried on the private server: its part, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from faaspot_api.queue import embedded
from faaspot_api.queue.users import SpotUsers
from faaspot_runner.contract import CONTROL, ENVIRONMENTS, REPORTS, RUNTIMES, SPOTS, SUPERVISOR, cancel_key, lease_key
from faaspot_runner.contract.spots import JOINED, WISHES, spot_key, spot_user
from tests.redis_servers import PASSWORD, RedisServer, running_redis

IP, OTHER = "10.0.0.2", "10.0.0.3"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(scope="module")
def spot(server: RedisServer) -> Iterator[redis.Redis]:
    with server.client() as own:
        password = SpotUsers(own).admit(IP)
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
    ("EVAL", "return redis.call('EXISTS', ARGV[1])", "0", cancel_key("x")),
    ("TIME",),
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
    ("EVAL", "return redis.call('DEL', ARGV[1])", "0", REPORTS),
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
