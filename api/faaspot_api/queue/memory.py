"""Whether Redis has room: what fills it must not be wake-ups alone."""

from __future__ import annotations

import math
import time
from typing import cast

import redis

from faaspot_api.errors import Unavailable
from faaspot_api.queue.clients import translated

ROOM, CROWDED = 0.75, 0.9
"""Shares of Redis' memory limit: beyond the first no wake-up goes in, beyond the second the newest come out again.

The rest is for leases, reports and replies: a server that is full to the brim refuses them, and nothing would ever end.
"""
LOOK_SECONDS = 0.25


class Memory:
    """How full a Redis server is, as a share of its own limit; 0 where it has none."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._seen = (-math.inf, 0.0)

    def used(self) -> float:
        """The share as it was a moment ago. Never raises: 0 for a server that is away."""
        at, share = self._seen
        if time.monotonic() - at < LOOK_SECONDS:
            return share
        try:
            with translated():
                return self.look()
        except Unavailable:
            self._seen = (time.monotonic(), 0.0)
            return 0.0

    def look(self) -> float:
        """The share now. Raises redis.RedisError."""
        told = cast(dict[str, int], self._redis.info("memory"))
        limit = told.get("maxmemory", 0)
        share = told["used_memory"] / limit if limit else 0.0
        self._seen = (time.monotonic(), share)
        return share
