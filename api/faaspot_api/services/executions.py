"""Runs: accepted, waited for, read, cancelled."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from faaspot_api.domain.model import NO_OPTIONS, Args, Execution, Filter, Page, Principal, RunOptions
from faaspot_api.domain.names import is_execution_id, is_name
from faaspot_api.domain.states import End, is_ended
from faaspot_api.errors import ApiError, Conflict, FieldError, Invalid, NotFound, Unavailable
from faaspot_api.queue.base import LOG_START, Queue
from faaspot_api.services import access, cursors
from faaspot_api.services.acceptance import Acceptance, Accepted, Order
from faaspot_api.services.answers import Answers
from faaspot_api.services.policy import Policy
from faaspot_api.services.recorder import Recorder
from faaspot_api.services.waiting import Gone, Waiting, never
from faaspot_api.services.wakeups import Bell
from faaspot_api.store import executions, logs
from faaspot_api.store.blobs import Blobs, BrokenBlobError
from faaspot_api.store.engine import Store
from faaspot_api.store.executions import NewExecution
from faaspot_api.store.moments import from_micros
from faaspot_runner.contract import QUEUE_BACKGROUND, QUEUE_SYNC, Error, LargeValue, Status

NO_SPOT = End(status="Failure", reason="no_spot")
MAX_PAGE = 1000
NAMED = 100
"""How many bad items of a bulk request an error names."""
FOLLOW_SECONDS = 1.0
"""How long a follower waits for more text before it looks whether the end has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Args or an output as JSON text: how many bytes, and they in pieces."""

    size: int
    pieces: Iterator[bytes]


class ExecutionService:
    """What people do with executions."""

    def __init__(
        self, store: Store, blobs: Blobs, queue: Queue, recorder: Recorder, acceptance: Acceptance, policy: Policy
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._queue = queue
        self._recorder = recorder
        self._policy = policy
        self._bell = Bell(queue)
        self._acceptance = acceptance
        self._answers = Answers(store)
        self._waiting = Waiting(store, queue, recorder)

    # ------------------------------------------------------------ running

    def take_args(self, who: Principal, name: str, pieces: Iterable[bytes]) -> LargeValue:
        """Keep args that are too long for a record, for a run that is asked for next; they are not looked into.

        Raises what `run` raises, TooLarge, Unavailable (`storage_full`), and what `pieces` raises.
        """
        return self._blobs.take(pieces, self._acceptance.most_args(who, name))

    def run(self, who: Principal, name: str, args: Args, options: RunOptions = NO_OPTIONS) -> Execution:
        """Accept a background run; its record is committed when this returns. A known key gives the run it stands for.

        Raises NotFound, Conflict (`deployment_not_ready`), Overloaded (too many wait already), Unavailable (the
        database, or a queue that is full; never one that is away), Unprocessable (a key of another request).
        """
        accepted = self._accept(who, Order(name=name, args=[args], queue=QUEUE_BACKGROUND, options=options))
        return _public(accepted.rows[0]) if accepted.rows else self._read(accepted.uuids[0])

    def run_bulk(self, who: Principal, name: str, args: Sequence[str], options: RunOptions = NO_OPTIONS) -> list[str]:
        """Accept many, all or none; their ids in the order of their args."""
        return self._accept(who, Order(name=name, args=args, queue=QUEUE_BACKGROUND, options=options)).uuids

    def run_wait(
        self,
        who: Principal,
        name: str,
        args: Args,
        wait: float | None,
        gone: Gone = never,
        options: RunOptions = NO_OPTIONS,
    ) -> tuple[Execution, bool]:
        """Run and wait: the record, and whether it has ended. `wait`: seconds; None: the timeout and some queueing.

        With None a run that no spot could take ends `no_spot`; with seconds, or if the caller has `gone`, it goes on.
        Raises what `run` raises, and Invalid where the deployment's timeout is too long to be waited for.
        """
        order = Order(name=name, args=[args], queue=QUEUE_SYNC, options=options, bounded=wait is None)
        accepted = self._acceptance.accept(who, order)
        uuid = accepted.uuids[0]
        seconds = accepted.timeout + self._policy.queueing if wait is None else wait
        try:
            if accepted.repeated:  # the reply is for who asked first
                execution = self._waiting.for_end(uuid, seconds, gone)
            else:
                wakeup = next(self._acceptance.counted(accepted), None)
                execution = self._waiting.for_reply(accepted.rows[0], wakeup, seconds, gone)
            if execution is None and wait is None and not gone():
                execution = self._without_spot(uuid)
            if execution is None:
                execution = self._read(uuid)
        except ApiError as error:
            error.execution_id = uuid
            raise
        ended = is_ended(execution.status)
        if ended and not accepted.repeated:
            self._answers.note(execution)
        return execution, ended

    def _accept(self, who: Principal, order: Order) -> Accepted:
        """Accept runs that nobody waits for, and wake the workers."""
        accepted = self._acceptance.accept(who, order)
        self._acceptance.announce(accepted)
        return accepted

    def _without_spot(self, uuid: str) -> Execution | None:
        """End a run that has never started, if there is no spot at all; None if it goes on."""
        try:
            if any(seen.is_online for seen in self._queue.spots()):
                return None
        except Unavailable:
            return None
        error = Error(type="NoSpot", message="No spot is online to run it: start one, or wait until one is back.")
        with self._store.read() as transaction:
            row = executions.tracked(transaction, [uuid]).get(uuid)  # None: its key is known, its record is gone
        if row is not None and row.state.status == "Pending":
            self._recorder.decide([row], NO_SPOT, error)
        return self._read(uuid)

    # ------------------------------------------------------------ reading

    def get(self, who: Principal, uuid: str) -> Execution:
        """The record. An end that was reported but is not written yet is waited for, up to `Policy.in_flight`."""
        return self.get_bulk(who, [uuid])[0]

    def get_bulk(self, who: Principal, uuids: Sequence[str], wait: float = 0.0, gone: Gone = never) -> list[Execution]:
        """The records in the order asked for, at most `wait` seconds later: once the first of them has ended.

        Raises Invalid for ids that repeat, NotFound that lists (in `unknown`) those that are not there, and TooLarge
        (see `store.executions.MAX_BYTES`).
        """
        _refuse_repeated(uuids)
        scope = access.executions(who)
        unknown = [uuid for uuid in uuids if not is_execution_id(uuid)]
        if not unknown:
            if wait:
                self._waiting.end_of(uuids[0], scope, wait, gone)
            with self._store.read() as transaction:
                found = executions.get_many(transaction, uuids, scope)
            unknown = [uuid for uuid in uuids if uuid not in found]
        if len(uuids) == 1 and unknown:
            raise access.unknown_execution(uuids[0])
        if unknown:
            raise _unknown(unknown)
        found |= self._waiting.in_flight(found.values(), self._policy.in_flight)
        return [found[uuid] for uuid in uuids]

    def list(self, who: Principal, wanted: Filter, limit: int, cursor: str | None) -> Page:
        """One page, newest first. Raises Invalid for a cursor that no page gave."""
        if not 1 <= limit <= MAX_PAGE:
            raise Invalid.fields(FieldError(field="limit", message=f"must be from 1 to {MAX_PAGE}"))
        after = None if cursor is None else cursors.parse(cursor)
        if wanted.deployment is not None and not is_name(wanted.deployment):
            return Page(items=(), cursor=None)
        with self._store.read() as transaction:
            items, key = executions.page(transaction, wanted, access.executions(who), limit, after)
        return Page(items=items, cursor=None if key is None else cursors.text(key))

    def wait(self, who: Principal, uuid: str, seconds: float) -> Execution:
        """The record at its end, or as it is after `seconds`."""
        execution = self.get(who, uuid)
        return execution if is_ended(execution.status) else self._waiting.for_end(uuid, seconds) or self._read(uuid)

    def output(self, who: Principal, uuid: str) -> Text:
        """What it came to, however long it is. Raises Conflict while it has not ended."""
        execution = self.get(who, uuid)
        if not is_ended(execution.status):
            raise Conflict("It has not ended: its output comes with its end.", execution_id=uuid)
        return self.output_of(execution)

    def output_of(self, execution: Execution) -> Text:
        """The same of a record that the caller may see, and that has ended."""
        return self._text(execution, "output", execution.output, execution.output_blob)

    def args(self, who: Principal, uuid: str) -> Text:
        """What it was given, however long that is."""
        execution = self.get(who, uuid)
        return self._text(execution, "args", execution.args, execution.args_blob)

    def _text(self, execution: Execution, what: str, text: str | None, blob: str | None) -> Text:
        if blob is None:
            found = (text or "null").encode("utf-8", "backslashreplace")
            return Text(size=len(found), pieces=iter((found,)))
        try:
            size, pieces = self._blobs.open(blob)
        except BrokenBlobError:
            raise NotFound(f"Its {what} is not there any more.", execution_id=execution.uuid) from None
        return Text(size=size, pieces=pieces)

    def logs(self, who: Principal, uuid: str) -> str:
        """What it has written: all of it once it has ended, until now while it runs."""
        if is_ended(self.get(who, uuid).status):
            return self._kept_log(uuid)
        try:
            return self._queue.tail(uuid, LOG_START, 0.0).text
        except Unavailable:
            return ""

    def follow(self, who: Principal, uuid: str, gone: Gone = never) -> Iterator[str]:
        """The log as it grows, until the end or its reader has `gone`. Raises NotFound before the first text."""
        self.get(who, uuid)
        return self._follow(uuid, gone)

    def _follow(self, uuid: str, gone: Gone) -> Iterator[str]:
        cursor, sent = LOG_START, 0
        while not is_ended(self._read(uuid).status):
            if gone():
                return
            try:
                part = self._queue.tail(uuid, cursor, FOLLOW_SECONDS)
            except Unavailable:
                time.sleep(FOLLOW_SECONDS)
                continue
            cursor, sent = part.cursor, sent + len(part.text)
            yield part.text  # an empty one, too: with it the answer's head goes out
        yield self._kept_log(uuid)[sent:]

    def _kept_log(self, uuid: str) -> str:
        with self._store.read() as transaction:
            return logs.log(transaction, uuid)

    def _read(self, uuid: str) -> Execution:
        with self._store.read() as transaction:
            execution = executions.get(transaction, uuid)
        if execution is None:
            raise access.unknown_execution(uuid)
        return execution

    # ------------------------------------------------------------ cancelling

    def cancel(self, who: Principal, uuid: str) -> Execution:
        """End it: at once while it waits; what runs is killed, and its end is waited for up to `Policy.in_flight`.

        Raises NotFound, Conflict (`already_ended`).
        """
        self.get(who, uuid)
        with self._store.write() as transaction:
            row = executions.tracked(transaction, [uuid])[uuid]
            if is_ended(row.state.status):
                raise _already_ended(uuid, row.state.status)
            after = self._recorder.cancel_within(transaction, [row], who.name)
        after.tell(self._bell)
        return self._waiting.for_end(uuid, self._policy.in_flight) or self._read(uuid)


def _public(row: NewExecution) -> Execution:
    """A new record as people see it."""
    values: dict[str, Any] = {name: getattr(row, name) for name in Execution.__slots__ if hasattr(row, name)}
    return Execution(
        **{**values, "created": from_micros(row.created), "started": None, "ended": None},
        error=None,
        spot=None,
        timings={},
        usage={},
    )


def _already_ended(uuid: str, status: Status) -> Conflict:
    return Conflict(f"The execution has ended already ({status}).", code="already_ended", execution_id=uuid)


def _refuse_repeated(uuids: Sequence[str]) -> None:
    """A short request must not have a long answer."""
    first: dict[str, int] = {}
    again = [(at, first[uuid]) for at, uuid in enumerate(uuids) if first.setdefault(uuid, at) != at]
    if again:
        bad = (FieldError(field=f"[{at}]", message=f"is the same id as [{other}]") for at, other in again[:NAMED])
        raise Invalid.fields(*bad)


def _unknown(uuids: Sequence[str]) -> ApiError:
    shown = ", ".join(uuid[:100] for uuid in uuids[:20])
    more = f" and {len(uuids) - 20} more" if len(uuids) > 20 else ""
    return NotFound(f"There are no executions {shown}{more}.", extra={"unknown": [uuid[:100] for uuid in uuids]})
