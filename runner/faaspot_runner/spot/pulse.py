"""What a spot and the API say to each other through Redis: the heartbeat, control messages, what is still needed."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis
import redis.asyncio

from faaspot_runner.connections import connect_async
from faaspot_runner.contract import (
    CONTROL,
    ENVIRONMENTS,
    ENVIRONMENTS_SECONDS,
    RUNTIMES,
    SPOT_HEARTBEAT_SECONDS,
    SPOTS,
    Cancel,
    Release,
    SpotInfo,
    dump,
    load,
)
from faaspot_runner.contract.runtimes import Runtimes
from faaspot_runner.contract.spots import spot_key
from faaspot_runner.settings import Settings

log = logging.getLogger(__name__)

REDIS_SECONDS = 5.0
SHUT_OUT_SECONDS = 5.0
"""How long Redis may refuse this spot, by its password or its own certificate, until that is taken for the truth."""
ASK_SECONDS = 4.0
"""How long a question to Redis may take with all its connecting. The client's own limits are for each step of each try,
which may add up to a minute while a cable is pulled, and a spot that is back would be taken for one that is not."""
AWAY_SECONDS = 0.5
SILENT_SECONDS = 10.0
"""Longest wait for one control message."""


def connect(settings: Settings) -> redis.asyncio.Redis:
    """A client of the settings' Redis for the event loop."""
    return connect_async(settings, REDIS_SECONDS)


class Heartbeat:
    """Tells every `SPOT_HEARTBEAT_SECONDS` that the spot lives and what it offers.

    Its directory keeps when it was created.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        settings: Settings,
        info: Callable[[float, float], SpotInfo],
        shut_out: Callable[[], None],
    ) -> None:
        """`info` makes the message from the time of creation and the present, both by Redis' clock. `shut_out` is
        called when Redis does not know this spot, on another host, any more.
        """
        self._redis = client
        self._ip = settings.ip
        self._remote = bool(settings.api)
        self._made = settings.home / "spot.json"
        self._info = info
        self._shut_out = shut_out
        self._refused: float | None = None
        self._now = asyncio.Event()

    def beat(self) -> None:
        """Tell at once."""
        self._now.set()

    async def run(self) -> None:
        """For ever; lives through an absent Redis."""
        while True:
            self._now.clear()
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    await self.tell()
                self._refused = None
            except TimeoutError:
                log.warning("the heartbeat did not reach Redis within %g s", ASK_SECONDS)
            except redis.RedisError as error:
                log.warning("the heartbeat did not reach Redis: %s", error)
                self._take(error)
            try:
                async with asyncio.timeout(SPOT_HEARTBEAT_SECONDS):
                    await self._now.wait()
            except TimeoutError:
                continue

    async def tell(self) -> None:
        """One heartbeat. Raises redis.RedisError."""
        seconds, micros = await self._redis.time()
        now = seconds + micros / 1e6
        text = dump(self._info(self._created(now), now))
        if self._remote:
            await self._redis.set(spot_key(self._ip), text)
        else:
            await self._redis.hset(SPOTS, self._ip, text)

    def _take(self, error: redis.RedisError) -> None:
        """Find out whether Redis is away, or is there and refuses us: it lost its users, or its certificate is new."""
        whys = (error, error.__cause__)  # the client wraps what breaks a connection
        refused = any(isinstance(why, redis.AuthenticationError) for why in whys)
        refused = refused or any("certificate verify failed" in str(why).lower() for why in whys)
        if not (self._remote and refused):
            self._refused = None
            return
        self._refused = self._refused or time.monotonic()
        if time.monotonic() - self._refused > SHUT_OUT_SECONDS:
            log.error("Redis refuses this spot, which asks the API to be let in again: %s", error)
            self._shut_out()

    async def leave(self) -> None:
        """Tell that this spot, on another host, is no more."""
        try:
            await self._redis.delete(spot_key(self._ip))
        except redis.RedisError as error:
            log.warning("this spot is known until it has been silent for a while: %s", error)

    def _created(self, now: float) -> float:
        """When this spot was first seen; kept over restarts."""
        try:
            return float(json.loads(self._made.read_text())["created"])
        except FileNotFoundError:
            self._made.write_text(json.dumps({"created": now}))
            return now


class Control:
    """Hears the API's control messages. What it misses while Redis is away is also a key.

    `missed` says to look for the workers' keys; the wanted runtimes it reads itself.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        cancel: Callable[[str], None],
        release: Callable[[Release], None],
        runtimes: Callable[[Runtimes], None],
        missed: Callable[[], None],
    ) -> None:
        self._redis = client
        self._cancel = cancel
        self._release = release
        self._runtimes = runtimes
        self._missed = missed

    async def run(self) -> None:
        """For ever; subscribes anew when Redis was away."""
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    async with asyncio.timeout(ASK_SECONDS):
                        await pubsub.subscribe(CONTROL)
                        self._missed()
                        await self.look()
                    while True:
                        message = await heard(pubsub)
                        if message is not None and message["type"] == "message":
                            self._hear(message["data"])
            except (redis.RedisError, TimeoutError) as error:
                log.warning("control messages wait, Redis is away: %s", error)
            await asyncio.sleep(AWAY_SECONDS)

    async def look(self) -> None:
        """Read which runtimes are wanted. Nothing is there in a server that came back empty: then what was holds.

        Raises redis.RedisError.
        """
        text = await self._redis.get(RUNTIMES)
        if text is not None:
            self._hear(text)

    def _hear(self, text: bytes | str) -> None:
        try:
            message = load(text)
        except ValueError as error:
            log.error("a control message cannot be read: %s", error)
            return
        if isinstance(message, Cancel):
            self._cancel(message.execution_id)
        elif isinstance(message, Release):
            self._release(message)
        elif isinstance(message, Runtimes):
            self._runtimes(message)


async def heard(pubsub: redis.asyncio.client.PubSub) -> dict[str, Any] | None:
    """What comes next; None after some seconds of silence. Raises redis.RedisError.

    A connection that the kernel gave up (ETIMEDOUT: a cable was pulled) is silence to the client, too, at once and each
    time: whoever asks again without a pause never lets anybody else in this process do anything.
    """
    began = time.monotonic()
    message: dict[str, Any] | None = await pubsub.get_message(timeout=SILENT_SECONDS)
    if message is None and time.monotonic() - began < SILENT_SECONDS / 2:
        raise redis.ConnectionError("the connection is dead")
    return message


class Needs:
    """Reads at the start, and now and then, which environments are needed: a spot may have missed every `Release`."""

    def __init__(self, client: redis.asyncio.Redis, keep_only: Callable[[frozenset[str]], Awaitable[None]]) -> None:
        self._redis = client
        self._keep_only = keep_only

    async def run(self) -> None:
        """For ever; lives through an absent Redis."""
        while True:
            try:
                text = await self._redis.get(ENVIRONMENTS)
                if text is not None:
                    await self._keep_only(frozenset(json.loads(text)))
            except (redis.RedisError, OSError, ValueError, TypeError) as error:
                log.warning("what is needed could not be compared with what is here: %s", error)
            await asyncio.sleep(ENVIRONMENTS_SECONDS)
