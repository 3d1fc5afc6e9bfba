"""Removes blobs that nothing refers to: large args and outputs of records that are gone, or that never were any."""

from __future__ import annotations

from itertools import cycle

from faaspot_api.store import archives, deployments, retention
from faaspot_api.store.blobs import PARTS, Blobs
from faaspot_api.store.engine import Store

ROUND_SECONDS = 60.0
"""How often one of the directory's parts is looked at: each several times a day."""
YOUNG_SECONDS = 86_400.0
"""What is younger may be about to be referred to."""


class Sweeping:
    """One for the platform, beside the reconciler."""

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self._store = store
        self._blobs = blobs
        self._parts = cycle(range(PARTS))
        self._looked: float | None = None

    def pass_(self, at: float) -> int:
        """Look at one part if it is time; how many blobs went. `at`: seconds of a monotonic clock."""
        if self._looked is not None and at - self._looked < ROUND_SECONDS:
            return 0
        self._looked = at
        return self.sweep(next(self._parts))

    def sweep(self, part: int) -> int:
        """Remove what nothing refers to of one part; how many. Raises Unavailable."""
        old = self._blobs.old(part, YOUNG_SECONDS)
        if not old:
            return 0
        with self._store.write() as transaction:
            deployments.alone_with_blobs(transaction)
            unneeded = retention.unneeded_blobs(transaction, old)
            # Somebody may have put one again since: then its record comes next.
            gone = [digest for digest in unneeded if self._blobs.delete_old(digest, YOUNG_SECONDS)]
            archives.forget(transaction, gone)
        return len(gone)
