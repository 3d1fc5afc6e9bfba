"""What people want of this spot, and how many workers follow from that and from the length of its queues."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import redis
import redis.asyncio

from faaspot_runner.contract import QUEUE_BACKGROUND, QUEUE_SYNC, SandboxSpec
from faaspot_runner.contract.lanes import WAITING
from faaspot_runner.contract.spots import EVERY, WARM, WISHES, Warm, Wish, own_line
from faaspot_runner.spot.pulse import ASK_SECONDS

log = logging.getLogger(__name__)

RUN_QUEUES = (QUEUE_SYNC, QUEUE_BACKGROUND)
LOOK_SECONDS = 1.0
IDLE_SECONDS = 30.0
"""A worker that was not needed for this long goes."""

Follow = Callable[[Wish, Mapping[str, int]], None]
KeepReady = Callable[[Sequence[SandboxSpec]], None]


class Wishes:
    """Looks every second at what is wanted, and at what waits in the lines that this spot takes from.

    `ready` is told which versions shall stand ready here.
    """

    def __init__(self, client: redis.asyncio.Redis, ip: str, follow: Follow, ready: KeepReady) -> None:
        self._redis = client
        self._ip = ip
        self._follow = follow
        self._ready = ready
        self.leaving = False
        """Whether this spot was told to end."""

    async def run(self) -> None:
        """For ever; lives through an absent Redis."""
        while True:
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    await self._look()
            except (redis.RedisError, OSError, ValueError) as error:
                log.warning("what is wanted of this spot could not be read: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            lines = [line for queue in RUN_QUEUES for line in (queue, own_line(queue, self._ip))]
            pipe.hmget(WISHES, [self._ip, EVERY])
            pipe.hmget(WAITING, lines)
            for line in lines:
                pipe.llen(f"rq:queue:{line}")
            pipe.hget(WARM, self._ip)
            (own, every), before, *within, warm = await pipe.execute()
        wish = Wish.of(own, every)
        self.leaving = wish.leaving
        lengths = [int(first or 0) + length for first, length in zip(before, within, strict=True)]
        self._follow(wish, dict(zip(RUN_QUEUES, (lengths[0] + lengths[1], lengths[2] + lengths[3]), strict=True)))
        self._ready(() if wish.draining or wish.leaving else Warm.of(warm).specs)


class Scale:
    """How many worker processes a queue shall have. `first`: as many as the spot was started with, by queue."""

    def __init__(self, first: Mapping[str, int], threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = first
        self._threads = threads
        self._clock = clock
        self._waited: set[str] = set()
        self._needed: dict[str, float] = {}

    def of(self, queue: str, now: int, wish: Wish, waiting: int, running: int) -> int:
        """The number from now on. One more when something waits at two looks in a row, one less after a while in which
        half of the others' threads would have been enough; both within what was wished.
        """
        first = self._first.get(queue, 0)
        if wish.least is None and wish.most is None:
            return first
        least = wish.least if wish.least is not None else min(first, first if wish.most is None else wish.most)
        most = wish.most if wish.most is not None else max(first, least)
        return max(least, min(most, now + self._step(queue, now, waiting, running)))

    def _step(self, queue: str, now: int, waiting: int, running: int) -> int:
        moment = self._clock()
        if waiting:
            self._needed[queue] = moment
            again = queue in self._waited or now == 0
            self._waited.add(queue)
            return 1 if again else 0
        self._waited.discard(queue)
        if running > self._threads * (now - 1) / 2:
            self._needed[queue] = moment
        if moment - self._needed.setdefault(queue, moment) < IDLE_SECONDS:
            return 0
        self._needed[queue] = moment
        return -1
