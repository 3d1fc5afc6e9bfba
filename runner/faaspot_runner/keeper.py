"""A worker's housekeeping: leases, heartbeats, orphaned wake-ups, what it tells the spot."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

import redis

from faaspot_runner.contract import LEASE_RENEW_SECONDS
from faaspot_runner.lease import Leases, Place, RedisClock, recover, sweep_started
from faaspot_runner.runtimes.channels import Channels
from faaspot_runner.runtimes.spot_socket import USED_SECONDS, SpotClient, SpotGoneError

log = logging.getLogger(__name__)

SWEEP_SECONDS = 30.0


class Worker(Protocol):
    """What the keeper needs of the RQ worker."""

    def request_stop(self) -> None:
        """Take no more."""

    def beat(self, client: redis.Redis) -> None:
        """Tell RQ that this worker lives. Raises redis.RedisError."""

    def clean(self, client: redis.Redis) -> None:
        """Have RQ forget the workers of this queue that are dead. Raises redis.RedisError."""


class Keeper:
    """The worker's housekeeping thread. Nothing that it does may block for long: the leases depend on it."""

    def __init__(
        self, client: redis.Redis, worker: Worker, leases: Leases, channels: Channels, spot: SpotClient,
        clock: RedisClock, place: Place,
    ) -> None:  # fmt: skip
        self._redis = client
        self._worker = worker
        self._leases = leases
        self._channels = channels
        self._spot = spot
        self._clock = clock
        self._place = place
        self._wake = threading.Event()
        self._over = False
        self._orphans: frozenset[str] = frozenset()
        self._next = dict.fromkeys(("used", "renew", "sweep"), 0.0)
        self._thread = threading.Thread(target=self._work, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def look(self) -> None:
        """Renew now: cancels may have been missed."""
        self._next["renew"] = 0.0
        self._wake.set()

    def stop(self) -> None:
        self._over = True
        self._wake.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._over:
            self._leases.expire()
            try:
                self._round()
            except redis.RedisError as error:
                log.warning("Redis is away, the leases wait: %s", error)
                self._next["renew"] = 0.0
            except SpotGoneError:
                self._worker.request_stop()
            self._wake.wait(1.0)
            self._wake.clear()

    def _round(self) -> None:
        if self._due("used", USED_SECONDS):
            self._spot.used(self._channels.used(), len(self._leases))
            self._channels.tidy()
        if self._due("renew", LEASE_RENEW_SECONDS):
            self._leases.renew()
            self._clock.set(self._redis.time())
            self._worker.beat(self._redis)
            self._orphans = recover(self._redis, self._place, self._orphans)
        if self._due("sweep", SWEEP_SECONDS):
            sweep_started(self._redis, self._place)
            self._worker.clean(self._redis)

    def _due(self, what: str, every: float) -> bool:
        """Whether it is time."""
        at = time.monotonic()
        if at < self._next[what]:
            return False
        self._next[what] = at + every
        return True
