"""The lists in Redis that wake-ups stand in: one common line for each of `contract.QUEUES`, and the spots' own ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

import redis
from rq import Queue as RqQueue
from rq.job import Job
from rq.serializers import JSONSerializer

from faaspot_api.queue.clients import as_text
from faaspot_runner.contract import QUEUE_BUILDS, QUEUES
from faaspot_runner.contract.spots import owner_of

SHED = 100
"""Wake-ups taken out at a time."""
SCAN = 10_000
"""Ids of a line that are read at once."""
FOREVER = -1


class Lines:
    """All lines of one server. Every method may raise redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._known = {name: self._made(name) for name in QUEUES}

    def line(self, name: str) -> RqQueue:
        """The line of that name, as RQ has it."""
        return self._known.get(name) or self._made(name)

    def names(self) -> tuple[str, ...]:
        """The common lines, then every own line that anything ever stood in."""
        keys = cast(set[bytes], self._redis.smembers(RqQueue.redis_queues_keys))
        known = {as_text(key).removeprefix(RqQueue.redis_queue_namespace_prefix) for key in keys}
        return (*QUEUES, *sorted(name for name in known if owner_of(name)[1] and owner_of(name)[0] in QUEUES))

    def lengths(self) -> Mapping[str, int]:
        """How many wake-ups stand in each common line and the own ones of its kind."""
        names = self.names()
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.llen(self.line(name).key)
            counts = dict.fromkeys(QUEUES, 0)
            for name, length in zip(names, pipe.execute(), strict=True):
                counts[owner_of(name)[0]] += length
        return counts

    def listed(self, name: str) -> Iterator[str]:
        """The ids in a line, from its front."""
        key, start = self.line(name).key, 0
        while True:
            part = self._redis.lrange(key, start, start + SCAN - 1)
            yield from (as_text(identifier) for identifier in part)
            if len(part) < SCAN:
                return
            # Workers take from the front meanwhile: read on a little before where this part ended.
            start += SCAN - SCAN // 10

    def single(self, line: RqQueue, identifiers: Sequence[str]) -> None:
        """Of each id that stands twice take out the later; a worker that takes the first meanwhile does no harm."""
        for identifier in identifiers:
            if self._redis.lpos(line.key, identifier, rank=2) is not None:
                self._redis.lrem(line.key, -1, identifier)

    def take_newest(self) -> int:
        """Take some wake-ups from the end of the longest line of runs; how many."""
        lines = [self.line(name) for name in self.names() if owner_of(name)[0] != QUEUE_BUILDS]
        longest = max(lines, key=lambda line: self._redis.llen(line.key))
        taken = cast(list[bytes] | None, self._redis.rpop(longest.key, SHED)) or []
        if taken:
            self._redis.unlink(*(Job.key_for(as_text(identifier)) for identifier in taken))
        return len(taken)

    def strand(self, online: Collection[str]) -> list[str]:
        """Empty the own lines of spots that are not `online`, and what their dead workers had taken out of them; the
        ids. A line is known again as soon as anything is put into it.
        """
        found: list[str] = []
        for name in self.names():
            if (ip := owner_of(name)[1]) is None or ip in online:
                continue
            key = self.line(name).key
            with self._redis.pipeline() as pipe:
                for standing in (key, f"{key}:intermediate"):
                    pipe.lrange(standing, 0, -1)
                    pipe.delete(standing)
                pipe.srem(RqQueue.redis_queues_keys, key)
                waiting, _, taken, _, _ = pipe.execute()
            found += [as_text(identifier) for identifier in (*taken, *waiting)]
        return found

    def _made(self, name: str) -> RqQueue:
        return RqQueue(name, connection=self._redis, serializer=JSONSerializer, default_timeout=FOREVER)
