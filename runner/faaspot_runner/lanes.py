"""A worker's part in the lanes: its threads are turns, and those that dead workers had come back (`contract.lanes`)."""

from __future__ import annotations

import logging

import redis

from faaspot_runner.contract.lanes import TEND, TEND_SECONDS, WORKER_SECONDS, workers_key
from faaspot_runner.lease import Place

log = logging.getLogger(__name__)


class Lanes:
    """The lanes of one worker's queue. `threads`: how many runs it can have in flight."""

    def __init__(self, place: Place, threads: int) -> None:
        self._place = place
        self._threads = threads

    def tend(self, client: redis.Redis) -> None:
        """Have the worker's threads count, and look after what all workers share. Raises redis.RedisError."""
        place = self._place
        times = (int(WORKER_SECONDS * 1000), int(TEND_SECONDS * 1000))
        lost = client.eval(TEND, 0, place.queue, place.worker, self._threads, *times)
        if lost:
            log.warning("%s turns of runs that no worker has any more were ended", lost)

    def leave(self, client: redis.Redis) -> None:
        """The worker's threads count no more. Raises redis.RedisError."""
        client.zrem(workers_key(self._place.queue), f"{self._place.worker} {self._threads}")
