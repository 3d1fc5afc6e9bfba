"""Redis' users for spots on other hosts: each may do what a spot does, and nothing to the platform's other keys.

Kept by Redis itself, in its file of users if it has one: the private server always does.
"""

from __future__ import annotations

import secrets

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
from faaspot_runner.contract.spots import WARM, WISHES, own_line, spot_key, spot_user

COMMANDS = (
    "ping", "time", "hello", "auth", "select", "client|setinfo", "client|setname", "multi", "exec", "discard", "watch",
    "unwatch", "eval", "evalsha", "script|load", "script|exists", "subscribe", "unsubscribe", "get", "set", "del",
    "exists", "expire", "pexpire", "mget", "hget", "hmget", "hset", "hdel", "hincrby", "hincrbyfloat", "llen", "lrange",
    "lrem", "lpush", "rpush", "blmove", "sadd", "srem", "smembers", "scard", "zadd", "zrem", "zrange", "xadd",
)  # fmt: skip


def rules(ip: str) -> list[str]:
    """What the user of the spot at `ip` may do, as `ACL SETUSER` takes it."""
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
    read = ["rq:suspended", "rq:worker:*", RUNTIMES, ENVIRONMENTS, WISHES, WARM]
    return [
        *(f"~{key}" for key in written),
        *(f"%R~{key}" for key in read),
        f"&{CONTROL}",
        "-@all",
        *(f"+{command}" for command in COMMANDS),
        f"(-@all +xadd ~{REPORTS})",
        f"(-@all +exists ~{PREFIX}cancel:*)",
    ]


class SpotUsers:
    """The users of the settings' Redis. Every method raises Unavailable."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    @classmethod
    def open(cls, settings: Settings) -> SpotUsers:
        """Nothing is sent yet."""
        return cls(clients.connect(settings))

    def admit(self, ip: str) -> str:
        """Make the user of the spot at `ip`, or make it anew; its password."""
        password = secrets.token_hex(32)
        with translated():
            self._acl("SETUSER", spot_user(ip), "reset", "on", f">{password}", *rules(ip))
            self._save()
        return password

    def dismiss(self, ip: str) -> None:
        """End the user, its connections and what it told of itself; no error if there is none."""
        with translated():
            self._acl("DELUSER", spot_user(ip))
            self._redis.delete(spot_key(ip))
            self._save()

    def stands(self, ip: str) -> bool:
        """Whether the spot at `ip` told of itself lately."""
        with translated():
            text = self._redis.get(spot_key(ip))
            seconds, micros = self._redis.time()
        if text is None:
            return False
        try:
            return seconds + micros / 1e6 - load_spot(as_text(text)).last_seen <= SPOT_OFFLINE_SECONDS
        except ValueError:
            return False

    def _save(self) -> None:
        """Have the server keep its users. One without a file for them has them from its own configuration."""
        try:
            self._acl("SAVE")
        except redis.ResponseError as error:
            if "ACL file" not in str(error):
                raise

    def _acl(self, *words: str) -> None:
        self._redis.execute_command("ACL", *words)  # type: ignore[no-untyped-call]
