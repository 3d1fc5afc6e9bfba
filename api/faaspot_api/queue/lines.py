"""The lists in Redis that wake-ups stand in: one common line for each of `contract.QUEUES` and the spots' own ones, and
in front of each the lanes of the deployments (`contract.lanes`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

import redis
from rq import Queue as RqQueue
from rq.job import Job

from faaspot_api.queue.clients import as_text
from faaspot_api.queue.turns import STRAND
from faaspot_runner.contract import QUEUE_BUILDS, QUEUES
from faaspot_runner.contract.lanes import GIVING, OWNERS, lane_key, lanes_key
from faaspot_runner.contract.scripts import END_TURNS
from faaspot_runner.contract.spots import own_line, owner_of

SHED = 100
"""Wake-ups taken out at a time."""
SCAN = 10_000
"""Ids of a list that are read at once."""


class Lines:
    """All lines of one server. Every method may raise redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def lengths(self) -> Mapping[str, int]:
        """How many wake-ups stand in the lines of each queue, and before them."""
        counts = dict.fromkeys(QUEUES, 0)
        for (queue, _), length in self._lengths(QUEUES).items():
            counts[queue] += length
        return counts

    def listed(self) -> Iterator[str]:
        """All ids that stand in lanes and in lines; in this order, because that is how they move."""
        for queue in QUEUES:
            for line in self._of(queue):
                for key in (*self._lanes(line), _line_key(line)):
                    yield from self._standing(key)

    def take_newest(self) -> int:
        """Take some wake-ups from the end of the longest lane or line of runs; how many."""
        lengths = self._lengths([queue for queue in QUEUES if queue != QUEUE_BUILDS])
        queue, longest = max(lengths, key=lambda each: lengths[each])
        taken = [as_text(each) for each in cast(list[bytes] | None, self._redis.rpop(longest, SHED)) or []]
        if taken:
            self._redis.unlink(*map(Job.key_for, taken))
            self._redis.eval(GIVING + END_TURNS, 0, queue, *taken)
        return len(taken)

    def strand(self, online: Collection[str]) -> list[str]:
        """Empty the own lines of spots that are not `online`, with what their dead workers had taken out of them and
        what waited for them; the ids.
        """
        gone = self._owners() - set(online)
        found = [as_text(each) for ip in sorted(gone) for each in cast(list[bytes], self._redis.eval(STRAND, 0, ip))]
        self._forget({*online, *self._owners()})
        return found

    def _forget(self, owners: Collection[str]) -> None:
        """Have RQ know no line of anybody else, and empty it: only its own spot can have put anything there."""
        for key in cast(set[bytes], self._redis.smembers(RqQueue.redis_queues_keys)):
            name = as_text(key).removeprefix(RqQueue.redis_queue_namespace_prefix)
            queue, ip = owner_of(name)
            if queue in QUEUES and ip is not None and ip not in owners:
                with self._redis.pipeline() as pipe:
                    pipe.srem(RqQueue.redis_queues_keys, key)
                    pipe.unlink(_line_key(name), f"{_line_key(name)}:intermediate")
                    pipe.execute()

    def _owners(self) -> set[str]:
        return {as_text(ip) for ip in cast(set[bytes], self._redis.smembers(OWNERS))}

    def _of(self, queue: str) -> list[str]:
        """The common line of a queue, and every own one."""
        return [queue, *(own_line(queue, ip) for ip in sorted(self._owners()))]

    def _lanes(self, line: str) -> list[str]:
        """The keys of the lanes before a line."""
        return [lane_key(line, as_text(lane)) for lane in cast(list[bytes], self._redis.hkeys(lanes_key(line)))]

    def _lengths(self, queues: Sequence[str]) -> dict[tuple[str, str], int]:
        """How many wait in each lane and line of these queues, by queue and key."""
        lines = [line for queue in queues for line in self._of(queue)]
        keys = [(owner_of(line)[0], key) for line in lines for key in (*self._lanes(line), _line_key(line))]
        with self._redis.pipeline(transaction=False) as pipe:
            for _, key in keys:
                pipe.llen(key)
            return dict(zip(keys, pipe.execute(), strict=True))

    def _standing(self, key: str) -> Iterator[str]:
        start = 0
        while True:
            part = self._redis.lrange(key, start, start + SCAN - 1)
            yield from (as_text(identifier) for identifier in part)
            if len(part) < SCAN:
                return
            # Workers take from the front meanwhile: read on a little before where this part ended.
            start += SCAN - SCAN // 10


def _line_key(line: str) -> str:
    """RQ's list of a line."""
    return f"{RqQueue.redis_queue_namespace_prefix}{line}"
