"""Runs: accepted, waited for, read, cancelled."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from faaspot_api.domain.model import Execution, Filter, Page, Principal, Version
from faaspot_api.domain.names import is_execution_id, is_name, new_execution_id
from faaspot_api.domain.states import End, is_ended
from faaspot_api.errors import ApiError, Conflict, FieldError, Invalid, NotFound, Unavailable
from faaspot_api.queue.base import LOG_START, Queue
from faaspot_api.services import access, spots, wakeups
from faaspot_api.services.answers import Answers
from faaspot_api.services.backlog import RETRY_AFTER, Backlog
from faaspot_api.services.policy import Policy
from faaspot_api.services.recorder import Recorder, new_token
from faaspot_api.services.waiting import Gone, Waiting, never
from faaspot_api.services.wakeups import Bell, Task, Wakeup
from faaspot_api.store import deployments, executions, logs
from faaspot_api.store.deployments import DeploymentRow
from faaspot_api.store.engine import Store, Transaction
from faaspot_api.store.executions import NewExecution
from faaspot_api.store.moments import SECOND, from_micros, now
from faaspot_runner.contract import QUEUE_BACKGROUND, QUEUE_SYNC, Error

NO_SPOT = End(status="Failure", reason="no_spot")
MAX_PAGE = 1000
NAMED = 100
"""How many bad items of a bulk request an error names."""
MAX_READY = 1000
"""Versions remembered; each is a few hundred bytes and its requirements."""
FOLLOW_SECONDS = 1.0
"""How long a follower waits for more text before it looks whether the end has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A request for runs of a deployment. `bounded`: its caller waits for as long as it takes."""

    who: Principal
    name: str
    texts: Sequence[str]
    queue: str
    bounded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _TakenIn:
    """What became of it: the records, and the build that has to end first, if any."""

    deployment: str
    rows: list[NewExecution]
    version: Version
    build: str | None


class ExecutionService:
    """What people do with executions."""

    def __init__(self, store: Store, queue: Queue, recorder: Recorder, policy: Policy) -> None:
        self._store = store
        self._queue = queue
        self._recorder = recorder
        self._policy = policy
        self._bell = Bell(queue)
        self._backlog = Backlog(store, policy.max_pending)
        self._answers = Answers(store)
        self._waiting = Waiting(store, queue, recorder)
        self._ready: dict[str, Version] = {}

    # ------------------------------------------------------------ running

    def run(self, who: Principal, name: str, args: str) -> Execution:
        """Accept a background run; its record is committed when this returns.

        Raises NotFound, Conflict (`deployment_not_ready`), Overloaded (too many wait already), Unavailable (the
        database, or a queue that is full; never one that is away).
        """
        return _public(self._accept(who, name, [args])[0])

    def run_bulk(self, who: Principal, name: str, args: Sequence[str]) -> list[str]:
        """Accept many, all or none; their ids in the order of their args."""
        return [row.uuid for row in self._accept(who, name, args)]

    def run_wait(
        self, who: Principal, name: str, args: str, wait: float | None, gone: Gone = never
    ) -> tuple[Execution, bool]:
        """Run and wait: the record, and whether it has ended. `wait`: seconds; None: the timeout and some queueing.

        With None a run that no spot could take ends `no_spot`; with seconds, or if the caller has `gone`, it goes on.
        Raises what `run` raises, and Invalid where the deployment's timeout is too long to be waited for.
        """
        (run,), version, said = self._accepted(who, name, [args], QUEUE_SYNC, bounded=wait is None)
        uuid = run.uuid
        seconds = (version.settings.timeout or 0.0) + self._policy.queueing if wait is None else wait
        try:
            execution = self._waiting.for_reply(run, next(iter(said), None), seconds, gone)
            if execution is None and wait is None and not gone():
                execution = self._without_spot(uuid)
            if execution is None:
                execution = self._read(uuid)
        except ApiError as error:
            error.execution_id = uuid
            raise
        ended = is_ended(execution.status)
        if ended:
            self._answers.note(execution)
        return execution, ended

    def _accept(self, who: Principal, name: str, texts: Sequence[str]) -> list[NewExecution]:
        """Commit the records, then wake the workers. A queue that is away is the reconciler's matter."""
        accepted, _, found = self._accepted(who, name, texts, QUEUE_BACKGROUND)
        self._bell.wake(found)
        return accepted

    def _accepted(
        self, who: Principal, name: str, texts: Sequence[str], queue: str, *, bounded: bool = False
    ) -> tuple[list[NewExecution], Version, Iterator[Wakeup]]:
        """Commit the records; they, their version, and the wake-ups to send, none for what waits for a build.

        If the queue is full nothing is accepted, since what is must also start one day.
        """
        access.require(who, "run")
        self._backlog.admit(who.name, len(texts))
        if not self._queue.has_room():
            raise Unavailable("The queue is full; try again when some runs have ended.", retry_after=RETRY_AFTER)
        asked = _Asked(who=who, name=name, texts=texts, queue=queue, bounded=bounded)
        taken = self._store.together(lambda transaction: self._take_in(transaction, asked))
        if not isinstance(taken, _TakenIn):
            raise taken
        accepted, version = taken.rows, taken.version
        if taken.build is not None:
            return accepted, version, iter(())
        spec, committed = wakeups.sandbox(taken.deployment, version), now()
        return accepted, version, (wakeups.run(_task(record, committed), spec) for record in accepted)

    def _take_in(self, transaction: Transaction, asked: _Asked) -> _TakenIn | ApiError:
        """Write the records. What is wrong with the request is returned: others share the transaction."""
        try:
            row, version, build = self._target(transaction, asked.who, asked.name)
            if asked.bounded:
                self._check_sync(version)
        except (NotFound, Conflict, Invalid) as error:
            return error
        rows = [
            self._record(asked.who, row, version, build, text, asked.queue, n) for n, text in enumerate(asked.texts)
        ]
        executions.add(transaction, rows)
        return _TakenIn(deployment=row.name, rows=rows, version=version, build=build)

    def _target(self, transaction: Transaction, who: Principal, name: str) -> tuple[DeploymentRow, Version, str | None]:
        """The deployment, the version that runs, and the build that has to end first, if any."""
        row = deployments.by_name_shared(transaction, name) if is_name(name) else None
        if row is None or not access.sees(who, row.owner, "run"):
            raise access.unknown_deployment(name)
        version = self._version(transaction, row.current_id or row.newest_id)
        if version.status == "success":
            return row, version, None
        if version.status == "failed":
            raise _not_ready(row.name, version)
        return row, version, version.build

    def _version(self, transaction: Transaction, version_id: str) -> Version:
        """A version; one that is ready never changes again and is remembered."""
        known = self._ready.get(version_id)
        if known is not None:
            return known
        version = deployments.version(transaction, version_id)
        if version is None:
            raise LookupError(f"version {version_id} is referred to and not there")
        if version.status == "success":
            if len(self._ready) >= MAX_READY:
                self._ready.clear()
            self._ready[version_id] = version
        return version

    def _record(
        self, who: Principal, row: DeploymentRow, version: Version, build: str | None, args: str, queue: str, n: int
    ) -> NewExecution:
        created = now() + n  # the runs of one bulk call keep their order in lists
        return NewExecution(
            uuid=new_execution_id(),
            kind="run",
            name=row.name,
            owner=who.name,
            queue=queue,
            token=new_token(),
            created=created,
            expires=created + int(self._policy.max_age * SECOND),
            waits_for=build,
            deployment=row.name,
            deployment_id=row.id,
            deployment_owner=row.owner,
            version=version.number,
            version_id=version.id,
            args=args,
        )

    def _check_sync(self, version: Version) -> None:
        timeout, most = version.settings.timeout or 0.0, self._policy.max_sync_timeout
        if timeout > most:
            message = f"{timeout:g} seconds are too long to wait for (at most {most:g}); run it in the background"
            raise Invalid.fields(FieldError(field="timeout", message=message))

    def _without_spot(self, uuid: str) -> Execution | None:
        """End a run that has never started, if there is no spot at all; None if it goes on."""
        try:
            if any(spots.is_online(seen) for seen in self._queue.spots()):
                return None
        except Unavailable:
            return None
        error = Error(type="NoSpot", message="No spot is online to run it: start one, or wait until one is back.")
        with self._store.read() as transaction:
            row = executions.tracked(transaction, [uuid])[uuid]
        if row.state.status == "Pending":
            self._recorder.decide([row], NO_SPOT, error)
        return self._read(uuid)

    # ------------------------------------------------------------ reading

    def get(self, who: Principal, uuid: str) -> Execution:
        """The record. An end that was reported but is not written yet is waited for, up to `Policy.in_flight`."""
        return self.get_bulk(who, [uuid])[0]

    def get_bulk(self, who: Principal, uuids: Sequence[str]) -> list[Execution]:
        """The records in the order asked for.

        Raises Invalid for ids that repeat, NotFound that lists (in `unknown`) those that are not there, and TooLarge
        (see `store.executions.MAX_BYTES`).
        """
        _refuse_repeated(uuids)
        scope = access.executions(who)
        unknown = [uuid for uuid in uuids if not is_execution_id(uuid)]
        if not unknown:
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
        after = None if cursor is None else _parse_cursor(cursor)
        if wanted.deployment is not None and not is_name(wanted.deployment):
            return Page(items=(), cursor=None)
        with self._store.read() as transaction:
            items, key = executions.page(transaction, wanted, access.executions(who), limit, after)
        return Page(items=items, cursor=None if key is None else _cursor(key))

    def wait(self, who: Principal, uuid: str, seconds: float) -> Execution:
        """The record at its end, or as it is after `seconds`."""
        execution = self.get(who, uuid)
        return execution if is_ended(execution.status) else self._waiting.for_end(uuid, seconds)

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
        execution = self.get(who, uuid)
        with self._store.write() as transaction:
            row = executions.tracked(transaction, [uuid])[uuid]
            if is_ended(row.state.status):
                raise _already_ended(execution)
            after = self._recorder.cancel_within(transaction, [row], who.name)
        after.tell(self._bell)
        return self._waiting.for_end(uuid, self._policy.in_flight)


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


def _task(row: NewExecution, committed: int) -> Task:
    return Task(
        uuid=row.uuid,
        attempt=row.attempt,
        token=row.token,
        queue=row.queue,
        created=row.created,
        expires=row.expires,
        args=row.args,
        committed=committed,
    )


def _not_ready(name: str, version: Version) -> Conflict:
    return Conflict(
        f"{name} cannot run: its build {version.build} failed ({version.reason}). See its log, then update it.",
        code="deployment_not_ready",
        execution_id=version.build,
        extra={"build": version.build, "reason": version.reason},
    )


def _already_ended(execution: Execution) -> Conflict:
    return Conflict(
        f"The execution has ended already ({execution.status}).", code="already_ended", execution_id=execution.uuid
    )


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


def _cursor(key: tuple[int, int]) -> str:
    return base64.urlsafe_b64encode(b"%d.%d" % key).decode().rstrip("=")


def _parse_cursor(text: str) -> tuple[int, int]:
    try:
        padded = text + "=" * (-len(text) % 4)
        created, seq = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii").split(".")
        key = int(created), int(seq)
    except (ValueError, binascii.Error):
        key = (-1, -1)
    if not all(0 <= part < 1 << 63 for part in key):
        raise Invalid.fields(FieldError(field="cursor", message="is not one that a page gave; begin without it"))
    return key
