"""Redis' users for spots on other hosts: each may do what a spot does, and nothing to the platform's other keys.

Kept by Redis itself, in its file of users if it has one: the private server always does.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import redis

from faaspot_api.queue import clients
from faaspot_api.queue.clients import as_text, translated
from faaspot_api.settings import Settings
from faaspot_runner.contract import (
    CONTROL,
    ENVIRONMENTS,
    PREFIX,
    QUEUES,
    REPORTS,
    RUNTIMES,
    SPOT_OFFLINE_SECONDS,
    load_spot,
)
from faaspot_runner.contract.lanes import OVER, WAITING
from faaspot_runner.contract.spots import WARM, WISHES, own_line, spot_key, spot_user

# Without CLIENT SETINFO, which Redis 7.0 does not know: a client that may not say its version goes on without.
COMMANDS = (
    "ping", "time", "hello", "auth", "client|setname", "multi", "exec", "discard", "watch",
    "unwatch", "evalsha", "subscribe", "unsubscribe", "get", "set", "del",
    "exists", "expire", "pexpire", "mget", "hget", "hmget", "hset", "hdel", "hincrby", "hincrbyfloat", "llen", "lrange",
    "lrem", "lpush", "rpush", "blmove", "sadd", "srem", "smembers", "scard", "zadd", "zrem", "zrange", "xadd",
)  # fmt: skip


PASSING = ("lease", "reply", "log")
LONGEST = 2 * 3600
"""Seconds; more than any of them is ever given."""
SCAN = 1000


def rules(ip: str, database: int = 0) -> list[str]:
    """What the user of the spot at `ip` may do in that database of the server, as `ACL SETUSER` takes it.

    Keys are judged by name alone, so in another database it could be at home in another platform.
    """
    lines = [*QUEUES, *(own_line(queue, ip) for queue in QUEUES)]
    name = spot_key(ip).removeprefix(PREFIX + "spot:").replace(":", "-")
    written = [
        *(f"rq:queue:{line}" for line in lines),
        *(f"rq:queue:{line}:intermediate" for line in lines),
        *(f"rq:wip:{queue}" for queue in QUEUES),
        *(f"rq:workers:{queue}" for queue in QUEUES),
        *(f"rq:clean_registries:{queue}" for queue in QUEUES),
        "rq:queues",
        "rq:workers",
        "rq:job:*",
        f"rq:worker:{name}.*",
        f"{PREFIX}lease:*",
        f"{PREFIX}reply:*",
        f"{PREFIX}log:*",
        spot_key(ip),
    ]
    read = ["rq:suspended", "rq:worker:*", RUNTIMES, ENVIRONMENTS, WISHES, WARM, WAITING]
    return [
        *(f"~{key}" for key in written),
        *(f"%R~{key}" for key in read),
        f"&{CONTROL}",
        "-@all",
        *(f"+{command}" for command in (*COMMANDS, f"select|{database}")),
        f"(-@all +xadd ~{REPORTS})",
        f"(-@all +rpush ~{OVER})",
        f"(-@all +exists ~{PREFIX}cancel:*)",
    ]


class UsersRefusedError(Exception):
    """The server makes no users, or none as we need them; the text says what to do."""


class SpotUsers:
    """The users of the settings' Redis. Every method raises Unavailable."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    @classmethod
    def open(cls, settings: Settings) -> SpotUsers:
        """Nothing is sent yet."""
        return cls(clients.connect(settings))

    def admit(self, ip: str) -> str:
        """Make the user of the spot at `ip`, or make it anew; its password. Who had the old one is cut off.

        Raises UsersRefusedError, too.
        """
        password = secrets.token_hex(32)
        with translated(), _told():
            self._acl("DELUSER", spot_user(ip))  # a new password alone would leave open connections as they are
            self._acl("SETUSER", spot_user(ip), "reset", "on", f">{password}", *rules(ip, self._database()))
            self._save()
        return password

    def dismiss(self, ip: str) -> None:
        """End the user, its connections, what it told of itself, and what would stay for ever; no error without one.

        All leases, replies and live logs expire. One that does not is no worker's: it could keep a run from ever being
        started again, or the memory full.
        """
        with translated():
            self._acl("DELUSER", spot_user(ip))
            self._redis.delete(spot_key(ip))
            for kind in PASSING:
                self._forget_lasting(kind)
            self._save()

    def _forget_lasting(self, kind: str) -> None:
        keys: list[bytes] = []
        for key in self._redis.scan_iter(match=f"{PREFIX}{kind}:*", count=SCAN):
            keys.append(key)
            if len(keys) == SCAN:
                self._unlink_lasting(keys)
                keys = []
        self._unlink_lasting(keys)

    def _unlink_lasting(self, keys: Sequence[bytes]) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.ttl(key)
            lasting = [key for key, left in zip(keys, pipe.execute(), strict=True) if left == -1 or left > LONGEST]
        if lasting:
            self._redis.unlink(*lasting)

    def stands(self, ip: str) -> bool:
        """Whether the spot at `ip` told of itself lately."""
        with translated():
            text = self._redis.get(spot_key(ip))
            seconds, micros = self._redis.time()
        if text is None:
            return False
        try:
            return abs(seconds + micros / 1e6 - load_spot(as_text(text)).last_seen) <= SPOT_OFFLINE_SECONDS
        except ValueError:
            return False

    def _database(self) -> int:
        return int(self._redis.connection_pool.connection_kwargs.get("db") or 0)

    def _save(self) -> None:
        """Have the server keep its users. One without a file for them has them from its own configuration."""
        try:
            self._acl("SAVE")
        except redis.ResponseError as error:
            if "ACL file" not in str(error):
                raise

    def _acl(self, *words: str) -> None:
        self._redis.execute_command("ACL", *words)  # type: ignore[no-untyped-call]


@contextmanager
def _told() -> Iterator[None]:
    """Turn the server's refusal to make a user into UsersRefusedError. What may pass stays what it is."""
    try:
        yield
    except redis.ResponseError as error:
        if isinstance(error, redis.exceptions.NoPermissionError):
            raise UsersRefusedError(
                "Redis does not let the platform make users, and each spot needs one: allow its own user ACL SETUSER, "
                f"DELUSER and SAVE (+acl). Redis says: {error}"
            ) from error
        if str(error).startswith(("unknown command", "Error in ACL SETUSER")):
            raise UsersRefusedError(
                f"Redis cannot make users as spots need them: it must be Valkey or Redis 7. Redis says: {error}"
            ) from error
        raise
