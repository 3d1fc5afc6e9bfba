"""Waiting for ends: by the worker's reply where there is one, else by looking at the record."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator

from faaspot_api.domain.model import Execution
from faaspot_api.domain.states import is_ended
from faaspot_api.errors import Unavailable
from faaspot_api.queue.base import Attempt, Queue
from faaspot_api.services.access import unknown_execution
from faaspot_api.services.recorder import Recorder
from faaspot_api.services.wakeups import Bell, Wakeup
from faaspot_api.store import executions
from faaspot_api.store.engine import Store
from faaspot_api.store.executions import EVERYTHING, Ending, NewExecution, Scope
from faaspot_api.store.moments import from_micros, maybe
from faaspot_runner.contract import RunEnded

SLICE_SECONDS = 2.0
"""A waiter for a reply looks at the record this often: the reply may have gone with the queue, or the end be ours."""
AWAY_SECONDS = 0.5
FIRST_LOOK, LAST_LOOK = 0.01, 0.25
"""Seconds between two looks at a record; each pause is longer than the one before."""

Gone = Callable[[], bool]
"""Whether nobody waits for the answer any more."""


def never() -> bool:
    """A caller who stays."""
    return False


class Waiting:
    """Waits for the ends of executions, for at most the seconds it is given."""

    def __init__(self, store: Store, queue: Queue, recorder: Recorder) -> None:
        self._store = store
        self._queue = queue
        self._recorder = recorder
        self._bell = Bell(queue)

    def for_reply(self, run: NewExecution, wakeup: Wakeup | None, seconds: float, gone: Gone) -> Execution | None:
        """The record of a run that is woken with `reply`, written by this call if its end came here; else None.

        `wakeup`: None for a run that something else will wake. None comes back, too, within `SLICE_SECONDS` after the
        caller has gone. What the caller is told is what is recorded: the end is written first, by the same function as
        the recorder's.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 or wakeup is not None:
            slice_ = max(0.0, min(left, SLICE_SECONDS))
            ended = self._reply(run.uuid, slice_) if wakeup is None else self._bell.ask(wakeup, slice_)
            wakeup = None
            execution = self._recorded(run, ended) or self._read(run.uuid)
            if is_ended(execution.status):
                return execution
            if gone():
                break
        return None

    def _reply(self, uuid: str, seconds: float) -> RunEnded | None:
        try:
            return self._queue.wait_reply(uuid, seconds)
        except Unavailable:
            time.sleep(min(seconds, AWAY_SECONDS))
            return None

    def _recorded(self, run: NewExecution, ended: RunEnded | None) -> Execution | None:
        """Write the end; the record as it is now, None if it has to be read: somebody else may have ended it."""
        if ended is None:
            return None
        ending = self._recorder.apply([ended]).get(run.uuid)
        return None if ending is None else _ended(run, ended.attempt, ending)

    def for_end(self, uuid: str, seconds: float, gone: Gone = never) -> Execution | None:
        """The record at its end, None if that does not come within `seconds` or the caller has gone."""
        return self._read(uuid) if self.end_of(uuid, EVERYTHING, seconds, gone) else None

    def end_of(self, uuid: str, scope: Scope, seconds: float, gone: Gone = never) -> bool:
        """Whether it has ended, within `seconds` or before the caller has gone; at once if `scope` has no such id."""
        known = self._has_ended(uuid, scope)
        for _ in _looks(seconds) if known is False else ():
            if (known := self._has_ended(uuid, scope)) or gone():
                break
        return bool(known)

    def _has_ended(self, uuid: str, scope: Scope) -> bool | None:
        with self._store.read() as transaction:
            return executions.has_ended(transaction, uuid, scope)

    def in_flight(self, found: Iterable[Execution], seconds: float) -> dict[str, Execution]:
        """Those of `found` whose end was reported, read again until it is written, at most `seconds` long."""
        left = self._reported([execution for execution in found if not is_ended(execution.status)])
        ended: dict[str, Execution] = {}
        for _ in _looks(seconds) if left else ():
            with self._store.read() as transaction:
                again = executions.get_many(transaction, left)
            ended |= {uuid: execution for uuid, execution in again.items() if is_ended(execution.status)}
            left = [uuid for uuid in left if uuid not in ended]
            if not left:
                break
        return ended

    def _reported(self, still_open: list[Execution]) -> list[str]:
        if not still_open:
            return []
        attempts = [Attempt(execution_id=one.uuid, attempt=one.attempt, kind=one.kind) for one in still_open]
        try:
            leases = self._queue.leases(attempts)
        except Unavailable:
            return []
        return [one.uuid for one, lease in zip(still_open, leases, strict=True) if lease == "done"]

    def _read(self, uuid: str) -> Execution:
        with self._store.read() as transaction:
            execution = executions.get(transaction, uuid)
        if execution is None:
            raise unknown_execution(uuid)
        return execution


def _ended(run: NewExecution, attempt: int, ending: Ending) -> Execution:
    """The record of a run as it stands once its end is written."""
    return Execution(
        uuid=run.uuid,
        name=run.name,
        deployment=run.deployment,
        version=run.version,
        kind=run.kind,
        status=ending.status,
        reason=ending.reason,
        output=ending.output,
        error=json.loads(ending.error) if ending.error else None,
        args=run.args,
        created=from_micros(run.created),
        started=maybe(ending.started),
        ended=from_micros(ending.ended),
        spot=ending.spot,
        attempt=attempt,
        timings=ending.timings,
        usage=ending.usage,
        logs_truncated=ending.logs_truncated,
        owner=run.owner,
        traceparent=run.traceparent,
        output_blob=ending.output_blob,
        output_size=ending.output_size,
        args_blob=run.args_blob,
        args_size=run.args_size,
    )


def _looks(seconds: float) -> Iterator[None]:
    """Pauses, longer and longer, until `seconds` have passed; yields after each."""
    deadline, pause = time.monotonic() + seconds, FIRST_LOOK
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        yield
        pause = min(pause * 1.5, LAST_LOOK)
