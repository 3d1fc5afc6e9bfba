"""The only writer of ends: takes what workers report, and what the platform decides, into the records.

Everything here is idempotent, so a report may come twice, late, or from a worker that was given up: what is not of the
record's present attempt and token changes nothing, and what has ended stays as it ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING

import structlog

from faaspot_api.domain import retries, states
from faaspot_api.domain.retries import Retries
from faaspot_api.domain.states import End, Report
from faaspot_api.domain.traces import trace_id
from faaspot_api.metrics import Metrics
from faaspot_api.queue.base import Attempt, Queue
from faaspot_api.services import builds, endings, wakeups
from faaspot_api.services.policy import Policy
from faaspot_api.services.wakeups import Bell, Wakeup
from faaspot_api.store import deployments, executions, logs, pauses
from faaspot_api.store.blobs import Blobs
from faaspot_api.store.engine import Store, Transaction
from faaspot_api.store.executions import Ending, Tracked
from faaspot_api.store.logs import Event
from faaspot_api.store.moments import SECOND, now
from faaspot_api.store.together import Together
from faaspot_runner.contract import Error, Release, RunEnded, RunStarted

if TYPE_CHECKING:
    from faaspot_api.spans import Spans

_log = structlog.get_logger(__name__)

CANCELLED = End(status="Cancelled", reason="cancelled")
PART = 500
"""Records that one transaction ends where there may be thousands: SQLite lets nobody else write meanwhile."""


def new_token() -> str:
    """The secret of one attempt: who reports without it is not believed."""
    return token_hex(16)


@dataclass(slots=True, kw_only=True)
class After:
    """What is to be said once the transaction is committed. `retried`: what got another attempt, now or later."""

    wakeups: list[Wakeup] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    cancelled: list[Attempt] = field(default_factory=list)
    retried: set[str] = field(default_factory=set)
    counts: list[Callable[[], None]] = field(default_factory=list)
    ended: dict[str, Ending] = field(default_factory=dict)
    """What was written of the ends, by id; nothing of it has to be said."""

    def add(self, more: After) -> None:
        """Say that, too."""
        self.wakeups += more.wakeups
        self.releases += more.releases
        self.cancelled += more.cancelled
        self.retried |= more.retried
        self.counts += more.counts
        self.ended |= more.ended

    def tell(self, bell: Bell) -> None:
        """Say it."""
        bell.wake(self.wakeups)
        bell.cancel(self.cancelled)
        bell.release(self.releases)
        for count in self.counts:
            count()


class Recorder:
    """Applies reports, each batch in one transaction."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        queue: Queue,
        policy: Policy,
        metrics: Metrics,
        spans: Spans | None = None,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._policy = policy
        self._metrics = metrics
        self._spans = spans
        self._bell = Bell(queue)
        self._gathered = Together(self._apply_all)

    def apply(self, events: Sequence[RunStarted | RunEnded]) -> dict[str, Ending]:
        """Take reports into the records, in order, and ring for what follows from them; the ends that they made.

        Raises Unavailable if the database is away: then nothing of them is kept, give them again later.
        """
        after = self._gathered.do(events)
        after.tell(self._bell)
        return after.ended

    def _apply_all(self, calls: Sequence[Sequence[RunStarted | RunEnded]]) -> list[After]:
        """The reports of several threads as one batch; what follows from them is the first one's to tell.

        All its records are held at once, in the one order in which everybody holds them. Batches that took them call by
        call, or among runs being accepted, would wait for each other, which PostgreSQL ends after a second by an error.
        """
        with self._store.write() as transaction:
            after = self.within(transaction, [event for events in calls for event in events])
        return [after, *(After(ended=after.ended) for _ in calls[1:])]

    def apply_reported(self, events: Sequence[RunStarted | RunEnded]) -> int:
        """The same for what came over the stream, where most ends may be on record already: by their sync callers.

        Such a one never changes again. To pass it over takes only a look, and no turn of the one writer. Returns how
        many were not on record.
        """
        with self._store.read() as transaction:
            ended = executions.ended_of(transaction, [event.execution_id for event in events])
        left = [event for event in events if event.execution_id not in ended]
        if left:
            self.apply(left)
        return len(left)

    def within(self, transaction: Transaction, events: Sequence[RunStarted | RunEnded]) -> After:
        """The same inside a transaction of the caller, who tells what follows after the commit."""
        rows = executions.tracked(transaction, [event.execution_id for event in events])
        batch = _Batch(transaction, self._blobs, self._policy, self._metrics, self._spans, rows)
        for event in events:
            batch.take(event)
        return batch.write()

    def cancel_within(
        self, transaction: Transaction, rows: Sequence[Tracked], by: str, *, at_once: bool = False
    ) -> After:
        """End open executions inside a transaction of the caller: now what waits, by its worker what runs.

        `at_once`: do not wait for the worker; whatever it still reports does not count.
        """
        error = Error(type="Cancelled", message=f"Cancelled by {by}.")
        now_ended = [row for row in rows if row.state.status == "Pending" or at_once]
        if not at_once:
            executions.mark_cancelling(transaction, [row.seq for row in rows if row.state.status != "Pending"])
        after = self.within(transaction, [decision(row, CANCELLED, error) for row in now_ended])
        after.cancelled += [attempt_of(row) for row in rows]
        return after

    def cancel_deployment(self, deployment_id: str, by: str) -> None:
        """End what waits of a deleted deployment, and its builds even while they run; runs that have started go on.

        A part at a time, each in a transaction of its own: others write in between. Raises Unavailable; call again.
        """
        while True:
            with self._store.write() as transaction:
                rows = executions.stoppable_of_deployment(transaction, deployment_id, PART)
                after = self.cancel_within(transaction, rows, by, at_once=True)
            after.tell(self._bell)
            if len(rows) < PART:
                return

    def decide(self, rows: Sequence[Tracked], end: End, error: Error) -> None:
        """End these by the platform's own decision, those of them that still stand as they were read."""
        known = {row.uuid: row for row in rows}
        with self._store.write() as transaction:
            found = executions.tracked(transaction, list(known))
            still = [row for uuid, row in found.items() if row.state == known[uuid].state]
            after = self.within(transaction, [decision(row, end, error) for row in still])
            # A cancel is of the execution, not of an attempt: it would end the next attempt, too. The lost one has no
            # lease any more, its worker kills it.
            after.cancelled += [attempt_of(row) for row in still if row.uuid not in after.retried]
        after.tell(self._bell)

    def settle_waiting(self, build: str) -> None:
        """Wake, or end, runs that wait for a build which has ended already."""
        with self._store.write() as transaction:
            batch = _Batch(transaction, self._blobs, self._policy, self._metrics, self._spans, {})
            after = batch.settle_waiting(build)
        after.tell(self._bell)


@dataclass(slots=True, kw_only=True)
class _Course:
    """One record in the course of a batch: as it was read, and what becomes of it."""

    row: Tracked
    started: tuple[int, str] | None = None
    retried: bool = False
    ending: Ending | None = None
    log: str = ""


class _Batch:
    """The reports of one transaction, folded so that each record is written once."""

    def __init__(
        self,
        transaction: Transaction,
        blobs: Blobs,
        policy: Policy,
        metrics: Metrics,
        spans: Spans | None,
        rows: Mapping[str, Tracked],
    ) -> None:
        self._transaction = transaction
        self._blobs = blobs
        self._policy = policy
        self._metrics = metrics
        self._spans = spans
        self._courses = {uuid: _Course(row=row) for uuid, row in rows.items()}
        self._events: list[Event] = []
        self._ready: list[Tracked] = []
        self._standard = Retries(attempts=policy.max_attempts)
        self._retries: dict[str, Retries] = {}
        self._pauses: dict[str, int] = {}
        self._after = After()

    def take(self, event: RunStarted | RunEnded) -> None:
        """Fold one report in; one that does not count any more is passed over."""
        course = self._courses.get(event.execution_id)
        if course is None or course.retried:
            return
        if isinstance(event, RunStarted):
            self._take_start(course, event)
        else:
            self._take_end(course, event)

    def write(self) -> After:
        """Write everything; returns what is to be said after the commit."""
        courses = self._courses.values()
        begun = [(course.row.seq, *course.started) for course in courses if course.started and not course.ending]
        executions.mark_started(self._transaction, begun)
        again = [course.row for course in courses if course.retried]
        executions.mark_retried(self._transaction, again)
        pauses.add(self._transaction, self._pauses)
        self._after.retried |= {row.uuid for row in again}
        self._after.ended = {uuid: course.ending for uuid, course in self._courses.items() if course.ending}
        executions.mark_ended(self._transaction, self._after.ended.values())
        logs.keep(self._transaction, {uuid: course.log for uuid, course in self._courses.items() if course.log})
        logs.note(self._transaction, self._events)
        woken = [*(row for row in again if row.uuid not in self._pauses), *self._ready]
        if woken:
            self._after.wakeups += wakeups.again(self._transaction, woken, self._policy)
        return self._after

    def settle_waiting(self, build: str) -> After:
        """What still waits for an ended build goes on, or ends with it; returns what to say after the commit."""
        row = executions.tracked(self._transaction, [build]).get(build)
        if row is not None and states.is_ended(row.state.status):
            waiting = executions.waiting_for(self._transaction, build)
            if row.state.status == "Success":
                executions.mark_ready(self._transaction, build)
                self._ready += [replace(one, waits_for=None) for one in waiting]
            else:
                self._fail_waiting(waiting, row, "see its log.")
        return self.write()

    # ------------------------------------------------------------ one report

    def _take_start(self, course: _Course, event: RunStarted) -> None:
        row = course.row
        state = states.start(row.state, Report(attempt=event.attempt, token=event.token))
        if state is None:
            return
        at = max(int(event.at * SECOND), row.created)
        course.started = (at, event.spot[: endings.MAX_SPOT])
        course.row = replace(row, state=state, started=at)
        if state.kind == "build":
            builds.started(self._transaction, row)
        self._note(course, "started", at, event.spot)

    def _take_end(self, course: _Course, event: RunEnded) -> None:
        row, end = course.row, endings.verdict(event)
        if end is None:
            _log.error("report_without_end", execution_id=row.uuid, status=str(event.status)[:50])
            return
        if not states.speaks_for(row.state, Report(attempt=event.attempt, token=event.token)):
            return
        if row.state.cancelling and end.reason in retries.PLATFORM:
            end = CANCELLED
        allowed = self._allowed(row, end)
        if states.may_retry(row.state, end.reason, allowed):
            self._retry(course, event, end, allowed.pause(row.state.attempt))
        else:
            self._end(course, event, end)

    def _allowed(self, row: Tracked, end: End) -> Retries:
        """The retries of the record's version. Most ends are successes, and those do not ask."""
        if end.status != "Failure" or row.state.kind != "run" or row.version_id is None:
            return self._standard
        if row.version_id not in self._retries:
            version = deployments.version(self._transaction, row.version_id)
            known = self._standard if version is None else retries.of(version.settings, self._policy.max_attempts)
            self._retries[row.version_id] = known
        return self._retries[row.version_id]

    def _retry(self, course: _Course, event: RunEnded, end: End, pause: float) -> None:
        """Another attempt, after `pause` seconds; it may wait at least as long for its start as the first one could."""
        row = course.row
        state = states.retry(row.state, new_token())
        if state is None:
            return
        self._after.counts.append(partial(self._metrics.retried, state.kind))
        what = "lost" if end.reason in retries.PLATFORM else "failed"
        self._note(course, what, int(event.at * SECOND), event.error.message if event.error else None)
        ready = now() + int(pause * SECOND)
        expires = None if row.expires is None else ready + (row.expires - row.created)
        if pause:
            self._pauses[row.uuid] = ready
        course.row = replace(row, state=state, started=None, expires=expires)
        course.started, course.retried = None, True
        if state.kind == "build":
            builds.retried(self._transaction, row)

    def _end(self, course: _Course, event: RunEnded, end: End) -> None:
        row = course.row
        state = states.end(row.state, Report(attempt=event.attempt, token=event.token), end)
        if state is None:
            return
        course.log = endings.log(event)
        if state.kind == "build":
            event = self._end_build(course, event, end)
        course.ending = endings.ending(row, event, end, course.started[1] if course.started else None)
        course.row = replace(row, state=state)
        self._count(row, end, event)
        if self._spans is not None:
            caller = executions.given(self._transaction, [row.uuid])[row.uuid].traceparent
            self._after.counts.append(partial(self._spans.ended, row, course.ending, caller))
        self._after.counts.append(partial(_tell, row, end, event.traceparent))
        self._note(course, "ended", course.ending.ended, end.reason or end.status)

    def _count(self, row: Tracked, end: End, event: RunEnded) -> None:
        name = "" if row.state.kind == "spot" else row.name
        self._after.counts.append(
            partial(self._metrics.ended, row.state.kind, name, end.status, end.reason, event.timings)
        )

    def _note(self, course: _Course, what: str, at: int, detail: str | None) -> None:
        row = course.row
        detail = endings.storable(detail and detail[:500])
        self._events.append(Event(execution=row.uuid, at=at, attempt=row.state.attempt, what=what, detail=detail))

    # ------------------------------------------------------------ a build's end

    def _end_build(self, course: _Course, event: RunEnded, end: End) -> RunEnded:
        """Carry the end over to the version and to the runs that wait; returns the report with the line to show."""
        row = course.row
        if end.status == "Success":
            deployments.alone_with_blobs(self._transaction)
            built = builds.succeeded(self._transaction, self._blobs, row, event.build, now())
            self._ready += [replace(waiting, waits_for=None) for waiting in built.waiting]
            self._after.releases.append(built.released)
            event, line = replace(event, output=json.dumps(built.line)), built.line
        else:
            line = endings.line(end, event.error)
            self._fail_waiting(builds.failed(self._transaction, row, end.reason), row, line)
        version = deployments.version(self._transaction, row.version_id or "")
        course.log = builds.log_end(version, course.log, line)
        return event

    def _fail_waiting(self, waiting: Iterable[Tracked], build: Tracked, why: str) -> None:
        for row in waiting:
            # It may be in this batch already, for a cancel.
            course = self._courses.setdefault(row.uuid, _Course(row=row))
            if not states.is_ended(course.row.state.status):
                error = builds.waited_error(build, why)
                self._end(course, endings.decided(course.row, now(), builds.WAITED, error), builds.WAITED)


def attempt_of(row: Tracked) -> Attempt:
    """The key of the record's present attempt in the queue."""
    return Attempt(execution_id=row.uuid, attempt=row.state.attempt, kind=row.state.kind)


def _tell(row: Tracked, end: End, traceparent: str | None) -> None:
    _log.info(
        "recorded",
        execution_id=row.uuid,
        attempt=row.state.attempt,
        trace_id=trace_id(traceparent),
        deployment=row.name,
        status=end.status,
        reason=end.reason,
    )


def decision(row: Tracked, end: End, error: Error) -> RunEnded:
    """The report by which the platform itself ends an execution."""
    return endings.decided(row, now(), end, error)
