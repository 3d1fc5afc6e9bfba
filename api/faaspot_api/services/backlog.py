"""How many runs may wait at once: without a bound one token fills the disk, the queue and everyone's patience."""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Lock

from faaspot_api.errors import Overloaded
from faaspot_api.store import backlog
from faaspot_api.store.engine import Store

RETRY_AFTER = 10
NEAR_SECONDS, FAR_SECONDS = 1.0, 5.0
"""How old a count may be that refuses, and one that admits: what other processes accept meanwhile is not in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Count:
    """Runs of one token that waited `at` (monotonic seconds), and what this process has admitted since."""

    at: float
    runs: int


class Backlog:
    """The waiting runs of each token, at most about `most`."""

    def __init__(self, store: Store, most: int) -> None:
        self._store = store
        self._most = most
        self._lock = Lock()
        self._counts: dict[str, _Count] = {}

    def admit(self, owner: str, more: int) -> None:
        """Let `more` runs of this token in. Raises Overloaded, Unavailable."""
        with self._lock:
            known = self._counts.get(owner)
        if known is None or time.monotonic() - known.at > self._patience(known, more):
            known = self._look(owner)
        if known.runs + more > self._most:
            raise Overloaded(
                f"{known.runs} runs of this token wait already, at most {self._most} may: "
                "wait until some have started, or cancel some.",
                retry_after=RETRY_AFTER,
            )
        with self._lock:
            known = self._counts.get(owner, known)
            self._counts[owner] = _Count(at=known.at, runs=known.runs + more)

    def _patience(self, known: _Count, more: int) -> float:
        return NEAR_SECONDS if known.runs + more > self._most else FAR_SECONDS

    def _look(self, owner: str) -> _Count:
        at = time.monotonic()
        with self._store.read() as transaction:
            runs = backlog.waiting_runs(transaction, owner, self._most + 1)
        with self._lock:
            self._counts[owner] = found = _Count(at=at, runs=runs)
        return found
