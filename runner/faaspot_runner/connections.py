"""Connections to Redis: at an address, or where its Sentinels say that the master is."""

from __future__ import annotations

import socket
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.retry
import redis.sentinel
from redis.backoff import NoBackoff
from redis.connection import parse_url

from faaspot_runner.contract.sentinels import Sentinels, sentinels
from faaspot_runner.settings import Settings

KEEPALIVE = {
    socket.TCP_KEEPIDLE: 10,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 20_000,
}
"""Who only listens learns within half a minute that the other end is gone without a word. The last: milliseconds."""


def connect(settings: Settings, timeout: float) -> redis.Redis:
    """A client of the settings' Redis. A connection that a restart broke is made anew once, then errors are raised.

    `timeout`: seconds that an answer, or a connection, may take.
    """
    options = _options(settings, timeout)
    options["retry"] = redis.retry.Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    known = sentinels(settings.redis_url)
    if known is None:
        return redis.Redis.from_url(settings.redis_url, health_check_interval=0, **options)
    guards = redis.sentinel.Sentinel(  # type: ignore[no-untyped-call]
        known.hosts,
        sentinel_kwargs=_of_sentinels(known, settings, options),
        **{**_of_servers(known), **options},
    )
    client: redis.Redis = guards.master_for(known.service)  # type: ignore[no-untyped-call]
    return client


def connect_async(settings: Settings, timeout: float) -> redis.asyncio.Redis:
    """The same for an event loop."""
    options = _options(settings, timeout)
    options["retry"] = redis.asyncio.retry.Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    known = sentinels(settings.redis_url)
    if known is None:
        return redis.asyncio.Redis.from_url(settings.redis_url, **options)
    guards = redis.asyncio.sentinel.Sentinel(  # type: ignore[no-untyped-call]
        known.hosts,
        sentinel_kwargs=_of_sentinels(known, settings, options),
        **{**_of_servers(known), **options},
    )
    client: redis.asyncio.Redis = guards.master_for(known.service)
    return client


def _options(settings: Settings, timeout: float) -> dict[str, Any]:
    said = settings.redis_password()
    options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    if not settings.redis_url.startswith("unix:"):
        options |= {"socket_keepalive": True, "socket_keepalive_options": KEEPALIVE}
    return {**options, "password": said} if said else options


def _of_servers(known: Sentinels) -> dict[str, Any]:
    """What the address says of the servers, as the library's Sentinel takes it."""
    said = dict(parse_url(known.server))  # type: ignore[no-untyped-call]
    for name in ("host", "port", "connection_class"):
        said.pop(name, None)
    return {**said, "ssl": True} if known.tls else said


def _of_sentinels(known: Sentinels, settings: Settings, options: dict[str, Any]) -> dict[str, Any]:
    """The same for the Sentinels, with a password of their own; the library's own retries would take seconds."""
    said: dict[str, Any] = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout", "retry")}
    said |= {name: value for name, value in _of_servers(known).items() if name.startswith("ssl")}
    password = settings.sentinel_password()
    return {**said, "password": password} if password else said
