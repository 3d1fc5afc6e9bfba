"""Finds what the queue has lost: the store is the truth, the queue a hint.

Doubts are timed by a monotonic clock from when this process first has them, so that neither a jump of the machine's
clock nor a slow report sets anything in motion. Only the maximum age of what waits is by the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import structlog

from faaspot_api.domain.states import End
from faaspot_api.metrics import Metrics
from faaspot_api.queue.base import Attempt, Queue
from faaspot_api.services import wakeups
from faaspot_api.services.clearing import Clearing
from faaspot_api.services.policy import Policy
from faaspot_api.services.recorder import CANCELLED, Recorder, attempt_of
from faaspot_api.services.retention import Retention
from faaspot_api.services.sweeping import Sweeping
from faaspot_api.services.wakeups import Bell
from faaspot_api.services.warmth import Warmth
from faaspot_api.store import deployments, executions, keys, pauses, runtimes, spots
from faaspot_api.store.engine import Store
from faaspot_api.store.executions import Tracked
from faaspot_api.store.moments import SECOND, now
from faaspot_runner.contract import ENVIRONMENTS_SECONDS, SPOT_OFFLINE_SECONDS, Error

NO_SPOT = End(status="Failure", reason="no_spot")
LOST = End(status="Failure", reason="worker_lost")
LOST_ERROR = Error(type="WorkerLost", message="The spot or worker that ran it was lost, and no attempt is left.")
TOO_OLD_ERROR = Error(
    type="NoSpot", message="No spot took it within its maximum age (the run's own, the deployment's, or the server's)."
)
GONE_ERROR = Error(type="Cancelled", message="Its deployment was deleted.")

PAGE = 2000
CHUNK = 100
"""Records enqueued again at a time: each brings its args along."""

_log = structlog.get_logger(__name__)


class Reconciler:
    """One for the platform, beside the recorder. Passes are idempotent, so a second one does no harm."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        recorder: Recorder,
        clearing: Clearing,
        retention: Retention,
        sweeping: Sweeping,
        policy: Policy,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._queue = queue
        self._recorder = recorder
        self._clearing = clearing
        self._retention = retention
        self._sweeping = sweeping
        self._policy = policy
        self._metrics = metrics
        self._bell = Bell(queue)
        self._warmth = Warmth(store, queue)
        self._doubts: dict[Attempt, float] = {}
        self._said_needed: float | None = None
        self._wished = True

    def pass_(self, at: float) -> None:
        """Look at everything that has not ended. `at`: seconds of a monotonic clock.

        Raises Unavailable if the database or the queue is away; the next pass goes on.
        """
        began = time.monotonic()
        self._want_runtimes()
        self._wish()
        self._warmth.say()
        self._count("shed", self._queue.shed())
        self._limit()
        self._say_needed(at)
        stranded = self._queue.strand()
        rows = self._end_expired(self._open_rows())
        self._settle_waiting(rows)
        rows = self._end_pauses(rows)
        self._clearing.clear_all()
        lost = self._lost(rows, at)
        doubted = {row.uuid for row in lost} | stranded
        self._wake([row for row in rows if row.uuid in doubted and row.state.status == "Pending"])
        self._give_up([row for row in lost if row.state.status == "Started"])
        self._kill([row for row in rows if row.state.cancelling])
        self._count("purged", self._retention.pass_(at))
        self._count("swept", self._sweeping.pass_(at))
        self._metrics.passed(time.monotonic() - began)

    def _want_runtimes(self) -> None:
        """Say it again, for a queue that lost it; unless nobody ever defined a runtime."""
        with self._store.read() as transaction:
            whole = runtimes.whole(transaction)
        if whole.revision:
            self._bell.want(whole)

    def _wish(self) -> None:
        """Say what is wanted of spots again, for a queue that lost it; forget those that were to go and have gone."""
        with self._store.read() as transaction:
            rows = spots.every(transaction)
        leaving = [row.ip for row in rows if row.leaving]
        if leaving:
            standing = {seen.info.ip for seen in self._queue.spots() if seen.age <= SPOT_OFFLINE_SECONDS}
            with self._store.write() as transaction:
                spots.alone(transaction)
                for ip in leaving:
                    row = spots.by_ip(transaction, ip)
                    if row is not None and row.leaving and ip not in standing:
                        spots.remove(transaction, ip)
        if self._wished or rows:
            self._wished = self._bell.wish(self._store)

    def _say_needed(self, at: float) -> None:
        """Tell the spots now and then what to keep; not at once: reports of builds may still be in the stream.

        And forget idempotency keys that are too old, and packed environments that nobody needs.
        """
        if self._said_needed is None:
            self._said_needed = at
        elif at - self._said_needed >= ENVIRONMENTS_SECONDS:
            with self._store.read() as transaction:
                needed = deployments.environments(transaction)
            self._queue.need(needed)
            self._said_needed = at
            with self._store.write() as transaction:
                keys.forget(transaction, now() - int(self._policy.key_seconds * SECOND))
            self._clearing.drop_archives()

    def _limit(self) -> None:
        """Say how many runs at once deployments may have where that has changed: it counts for what waits already."""
        said = self._queue.concurrency()
        with self._store.read() as transaction:
            wanted = deployments.concurrency(transaction)
        names = said.keys() | wanted.keys()
        changed = {name: wanted.get(name, 0) for name in names if said.get(name) != wanted.get(name)}
        if changed:
            self._queue.limit(changed)

    def _open_rows(self) -> list[Tracked]:
        found: list[Tracked] = []
        with self._store.read() as transaction:
            while True:
                key = (found[-1].created, found[-1].seq) if found else (0, 0)
                page = executions.open_rows(transaction, key, PAGE)
                found += page
                if len(page) < PAGE:
                    return found

    def _end_expired(self, rows: Sequence[Tracked]) -> list[Tracked]:
        """End what has waited for too long; returns the others.

        What a worker has taken in time waits no longer, though the report of it may be late: the recorder was away.
        """
        moment, most = now(), int(self._policy.max_age * SECOND)
        old = [row for row in rows if row.state.status == "Pending" and moment > (row.expires or row.created + most)]
        leases = self._queue.leases([attempt_of(row) for row in old])
        old = [row for row, lease in zip(old, leases, strict=True) if lease == "none"]
        for chunk in _chunks(old):
            self._recorder.decide(chunk, NO_SPOT, TOO_OLD_ERROR)
            self._count("aged_out", len(chunk))
        ended = {row.uuid for row in old}
        return [row for row in rows if row.uuid not in ended]

    def _settle_waiting(self, rows: Sequence[Tracked]) -> None:
        still_open = {row.uuid for row in rows}
        for build in {row.waits_for for row in rows if row.waits_for and row.waits_for not in still_open}:
            self._recorder.settle_waiting(build)
            self._count("settled", 1)

    def _end_pauses(self, rows: Sequence[Tracked]) -> list[Tracked]:
        """Wake what has paused between two attempts for long enough; returns what does not pause."""
        moment = now()
        with self._store.read() as transaction:
            untils = pauses.every(transaction)
        if any(until <= moment for until in untils.values()):
            self._wake([row for row in rows if untils.get(row.uuid, moment + 1) <= moment])
            with self._store.write() as transaction:
                pauses.end(transaction, moment)
        return [row for row in rows if row.uuid not in untils]

    def _lost(self, rows: Sequence[Tracked], at: float) -> list[Tracked]:
        """What has been in doubt for longer than its patience."""
        doubtful = self._doubtful([row for row in rows if row.waits_for is None])
        known = self._doubts
        self._doubts = {attempt_of(row): known.get(attempt_of(row), at) for row in doubtful}
        return [row for row in doubtful if at - self._doubts[attempt_of(row)] >= self._patience(row)]

    def _doubtful(self, rows: Sequence[Tracked]) -> list[Tracked]:
        """What no worker has, and no queue either."""
        leases = self._queue.leases([attempt_of(row) for row in rows])
        unleased = [row for row, lease in zip(rows, leases, strict=True) if lease == "none"]
        waiting = [attempt_of(row) for row in unleased if row.state.status == "Pending"]
        queued = self._queue.queued(waiting) if waiting else frozenset()
        return [row for row in unleased if row.state.status == "Started" or attempt_of(row) not in queued]

    def _patience(self, row: Tracked) -> float:
        return self._policy.unqueued if row.state.status == "Pending" else self._policy.unleased

    def _wake(self, rows: Sequence[Tracked]) -> None:
        """Enqueue again: the same attempt, the same token. What lost its deployment meanwhile ends."""
        if not self._queue.has_room():
            return
        for chunk in _chunks(rows):
            with self._store.read() as transaction:
                found = wakeups.again(transaction, chunk, self._policy)
            woken = {wakeup.request.execution_id for wakeup in found}
            if self._bell.wake(found):
                self._calm(chunk)
            if gone := [row for row in chunk if row.uuid not in woken]:
                self._recorder.decide(gone, CANCELLED, GONE_ERROR)
            self._count("enqueued_again", len(found))
            _log.info("enqueued_again", count=len(found))

    def _give_up(self, rows: Sequence[Tracked]) -> None:
        """Another attempt while one is left, else the end."""
        for chunk in _chunks(rows):
            self._recorder.decide(chunk, LOST, LOST_ERROR)
            self._calm(chunk)
            self._metrics.leases_expired(len(chunk))
            self._count("gave_up", len(chunk))
            _log.warning("workers_lost", executions=[row.uuid for row in chunk])

    def _kill(self, rows: Sequence[Tracked]) -> None:
        """Say once more what a worker may not have heard."""
        if rows:
            self._queue.cancel([row.uuid for row in rows])
            self._count("cancelled_again", len(rows))

    def _count(self, action: str, count: int) -> None:
        if count:
            self._metrics.reconciled(action, count)

    def _calm(self, rows: Sequence[Tracked]) -> None:
        for row in rows:
            self._doubts.pop(attempt_of(row), None)


def _chunks(rows: Sequence[Tracked]) -> Iterator[Sequence[Tracked]]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]
