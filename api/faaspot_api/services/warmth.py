"""Which versions stand ready on which spots before anybody runs them (`min_warm`)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from faaspot_api.domain.model import Version
from faaspot_api.queue.base import Queue
from faaspot_api.queue.placement import can_hold
from faaspot_api.services import wakeups
from faaspot_api.store import deployments
from faaspot_api.store.engine import Store
from faaspot_runner.contract import QUEUE_BACKGROUND, QUEUE_SYNC, SandboxSpec, SpotInfo
from faaspot_runner.contract.spots import Warm

RUN_QUEUES = (QUEUE_SYNC, QUEUE_BACKGROUND)
MOST = 1000
"""Versions that one spot is told of, which it reads every second: far more than it keeps sandboxes."""


class Warmth:
    """Says it at each pass of the reconciler; the spots start what is missing, and what is said no more may go."""

    def __init__(self, store: Store, queue: Queue) -> None:
        self._store = store
        self._queue = queue
        self._said = True  # perhaps, before this process

    def say(self) -> None:
        """Tell the spots; nothing while nobody asks for it. Raises Unavailable."""
        with self._store.read() as transaction:
            asking = deployments.kept_warm(transaction)
        if asking or self._said:
            infos = [seen.info for seen in self._queue.spots() if seen.is_online] if asking else []
            self._queue.keep_warm(chosen(asking, infos))
        self._said = bool(asking)


def chosen(asking: Iterable[tuple[str, Version]], infos: Sequence[SpotInfo]) -> dict[str, Warm]:
    """By address what each spot is to keep: each version as often as it asks, on spots that are able to."""
    found: defaultdict[str, list[SandboxSpec]] = defaultdict(list)
    for name, version in asking:
        spec = wakeups.sandbox(name, version)
        able = [info for info in infos if can_hold(info, spec)]
        # Those that have no worker for runs come last.
        able.sort(key=lambda info: (not any(map(info.workers.get, RUN_QUEUES)), _lot(version.id, info.ip)))
        for info in able[: version.settings.min_warm]:
            found[info.ip].append(spec)
    return {ip: Warm(tuple(specs[:MOST])) for ip, specs in found.items()}


def _lot(version_id: str, ip: str) -> bytes:
    """A draw that comes out the same each time: a spot that comes or goes moves only what it gets or had."""
    return hashlib.sha256(f"{version_id} {ip}".encode()).digest()
