"""Connections to Redis, and the one place where its errors become ours.

Every socket has a timeout: a server that is frozen or gone costs a caller at most `ANSWER_SECONDS`, never a thread.
A blocking command therefore waits in slices (`slices`) that end well before the socket gives up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel

from faaspot_api.errors import Unavailable
from faaspot_api.settings import Settings
from faaspot_runner.contract import PREFIX, SUPERVISOR
from faaspot_runner.contract.sentinels import Sentinels, sentinels

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 5.0
SLICE_SECONDS = 3.0
"""Longest wait of one blocking command; below `ANSWER_SECONDS`, so that only a server which is away times out."""
MAX_CONNECTIONS = 1100
"""Of one process: a waiting caller holds one, and `web_threads` is at most 1024."""
RETRY_AFTER = 2
RECORDER = PREFIX + "recorder"
"""String, gone `RECORDER_SECONDS` after the recorder last told how it is: why it cannot record, or empty."""
RECORDER_SECONDS = 15
TAKEN = SUPERVISOR + ":taken"
"""Spot requests the supervisor is working on."""


def connect(settings: Settings) -> redis.Redis:
    """A client for the settings' Redis; connects at the first command. Safe between threads and after a fork.

    A command whose connection turns out dead is sent once more on a new one, so a restarted server is not noticed.
    """
    return open_client(settings.redis, settings.redis_secret(), settings.redis_sentinel_password)


def open_client(url: str, password: str | None, sentinel_password: str = "") -> redis.Redis:
    """A client for `url`, which may name Sentinels; `password` counts over the URL's own. Raises ValueError."""
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": ANSWER_SECONDS,
        "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        "max_connections": MAX_CONNECTIONS,
        "protocol": 2,
        **({"password": password} if password else {}),
    }
    known = sentinels(url)
    if known is None:
        client: redis.Redis = redis.Redis.from_url(url, **options)
        return client
    return _at_master(known, sentinel_password, options)


def _at_master(known: Sentinels, password: str, options: dict[str, Any]) -> redis.Redis:
    """A client of whichever server the Sentinels call the master, asked anew at each connection."""
    said = dict(parse_url(known.server))  # type: ignore[no-untyped-call]
    for name in ("host", "port", "connection_class"):
        said.pop(name, None)
    tls = {**{name: value for name, value in said.items() if name.startswith("ssl")}, "ssl": True} if known.tls else {}
    asked = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": CONNECT_SECONDS, **tls}
    asked["retry"] = options["retry"]  # the library's own takes seconds where nobody is there
    if password:
        asked["password"] = password
    guards = Sentinel(known.hosts, sentinel_kwargs=asked, **{**said, **tls, **options})  # type: ignore[no-untyped-call]
    client: redis.Redis = guards.master_for(known.service)  # type: ignore[no-untyped-call]
    return client


def answers(url: str, password: str | None) -> bool:
    """Whether the server answers, with its data loaded."""
    client = open_client(url, password)
    try:
        with translated():
            client.ping()
    except Unavailable:
        return False
    else:
        return True
    finally:
        client.close()


@contextmanager
def translated() -> Iterator[None]:
    """Turn whatever Redis fails with into `Unavailable` with a reason for people."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError) as error:
        reason = _reason(error)
        raise Unavailable(
            f"The queue is unavailable: {reason}. Try again in a moment.", retry_after=RETRY_AFTER
        ) from error


def slices(seconds: float) -> Iterator[float]:
    """The waits, in seconds, of the blocking commands that together wait for `seconds`; at least one."""
    end = time.monotonic() + seconds
    left = seconds
    while True:
        # Redis takes 0 as "forever".
        yield min(SLICE_SECONDS, max(left, 0.001))
        left = end - time.monotonic()
        if left <= 0.001:
            return


def as_text(value: bytes | str) -> str:
    """Text as Redis gives it: bytes, or str by a client that decodes."""
    return value.decode() if isinstance(value, bytes) else value


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, redis.AuthenticationError) or text.startswith(("NOAUTH", "WRONGPASS")):
        return "Redis refuses the password"
    if isinstance(error, redis.OutOfMemoryError) or text.startswith("OOM"):
        return "Redis has reached its memory limit"
    if isinstance(error, redis.ReadOnlyError) or text.startswith("READONLY"):
        return "Redis is a read-only replica"
    if isinstance(error, redis.BusyLoadingError):
        return "Redis is still loading its data"
    if isinstance(error, redis.MaxConnectionsError):
        return "too many callers wait at once"
    if isinstance(error, redis.TimeoutError):
        return "Redis does not answer"
    if isinstance(error, redis.ConnectionError):
        return "Redis cannot be reached"
    return f"Redis refuses: {text.split(' ', 1)[0]}"
