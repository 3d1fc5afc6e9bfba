"""How long records of ended runs are kept: by age and by number, each deployment as it says.

Those that go are deleted a few in one short transaction after the other, and never for more than half of the time, so
that whoever else writes is not held up. Builds, deletions and changes of spots are kept.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from faaspot_api.services.policy import Policy
from faaspot_api.store import retention
from faaspot_api.store.engine import Store, Transaction
from faaspot_api.store.moments import SECOND, now
from faaspot_api.store.retention import Kept

ROUND_SECONDS = 60.0
"""How often it looks for what has become too old or too many."""
PART = 100
"""Runs deleted in one transaction, or fewer with long values."""
PASS_SECONDS = 1.0
"""How long one pass may delete."""
DAY = 86_400 * SECOND
YOUNG = 3600 * SECOND
"""What ended within the last hour stays, however many there are: somebody may be about to read it."""


class Retention:
    """Deletes old records. One for the platform, beside the reconciler."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy
        self._looked: float | None = None
        self._due: deque[tuple[str, int]] = deque()
        """(deployment, until): what ended up to then is to go."""

    def pass_(self, at: float) -> int:
        """Go on for at most `PASS_SECONDS`; how many records went. `at`: seconds of a monotonic clock."""
        if not self._due and (self._looked is None or at - self._looked >= ROUND_SECONDS):
            self._looked = at
            with self._store.read() as transaction:
                self._due.extend(self._rounds(transaction, now()))
        gone, deadline = 0, time.monotonic() + PASS_SECONDS
        while self._due and time.monotonic() < deadline:
            gone += self._step()
        return gone

    def _rounds(self, transaction: Transaction, moment: int) -> Iterator[tuple[str, int]]:
        ids = retention.deployments_with_ends(transaction)
        said = retention.kept(transaction, ids)
        for deployment in ids:
            yield deployment, self._until(transaction, deployment, said.get(deployment, Kept()), moment)

    def _until(self, transaction: Transaction, deployment: str, kept: Kept, moment: int) -> int:
        """What ended up to this moment is too old, or one of too many."""
        days = self._policy.keep_days if kept.days is None else kept.days
        until = moment - int(days * DAY)
        if kept.runs is not None:
            until = max(until, retention.end_of_the_last_kept(transaction, deployment, kept.runs) or 0)
        return min(until, moment - YOUNG)

    def _step(self) -> int:
        """Delete a part, and leave the database to others for as long as that took."""
        deployment, until = self._due[0]
        began = time.monotonic()
        with self._store.write() as transaction:
            gone = retention.purge(transaction, deployment, until, PART)
        took = time.monotonic() - began
        if gone:
            time.sleep(took)
        else:
            self._due.popleft()
        return gone
