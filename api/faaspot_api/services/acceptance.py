"""How a run is accepted: its record is committed before the caller hears its id, and only then a worker is woken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import structlog

from faaspot_api.domain import callbacks as rules
from faaspot_api.domain import limits
from faaspot_api.domain.model import NO_OPTIONS, Args, Principal, RunOptions, Version, large
from faaspot_api.domain.names import is_name, new_execution_id
from faaspot_api.errors import ApiError, Conflict, FieldError, Invalid, NotFound, Unavailable, Unprocessable
from faaspot_api.metrics import Metrics
from faaspot_api.queue.base import Queue
from faaspot_api.services import access, wakeups
from faaspot_api.services.backlog import RETRY_AFTER, Backlog
from faaspot_api.services.policy import Policy
from faaspot_api.services.recorder import new_token
from faaspot_api.services.wakeups import Bell, Task, Wakeup
from faaspot_api.store import callbacks, deployments, executions, keys
from faaspot_api.store.callbacks import Callback
from faaspot_api.store.deployments import DeploymentRow
from faaspot_api.store.engine import Store, Transaction
from faaspot_api.store.executions import NewExecution
from faaspot_api.store.moments import SECOND, now
from faaspot_runner.contract import LargeValue, SandboxSpec
from faaspot_runner.contract.failpoints import reach
from faaspot_runner.contract.large import most_bytes

_log = structlog.get_logger(__name__)

MAX_READY = 1000
"""Versions remembered; each is a few hundred bytes and its requirements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Runs of one deployment that are asked for together. `args`: those of each.

    `bounded`: somebody waits for the end, so the deployment's timeout must not be too long for that.
    """

    name: str
    args: Sequence[Args]
    queue: str
    options: RunOptions = NO_OPTIONS
    bounded: bool = False

    @property
    def digest(self) -> str:
        """What makes two requests under one idempotency key the same."""
        args = (given if isinstance(given, str) else [given.digest] for given in self.args)
        said = [self.name, self.options.max_age, self.options.callback, *args]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Runs of one deployment that were accepted together.

    `timeout`: seconds that each may take; `concurrency`: how many of its deployment run at once, 0 without a limit;
    `spec`: what workers are to be woken with, None if a build has to end first.
    `repeated`: instead of rows, what the same request under the same idempotency key was answered before.
    """

    rows: tuple[NewExecution, ...]
    timeout: float
    concurrency: int = 0
    spec: SandboxSpec | None = None
    repeated: tuple[str, ...] = ()

    @property
    def uuids(self) -> list[str]:
        """The ids to answer, in the order of the args."""
        return list(self.repeated) or [row.uuid for row in self.rows]


class Acceptance:
    """Takes runs in."""

    def __init__(self, store: Store, queue: Queue, policy: Policy, metrics: Metrics) -> None:
        self._store = store
        self._queue = queue
        self._policy = policy
        self._metrics = metrics
        self._bell = Bell(queue)
        self._backlog = Backlog(store, policy.max_pending)
        self._ready: dict[str, Version] = {}

    def accept(self, who: Principal, order: Order) -> Accepted:
        """Commit the records, all or none; who asks announces them.

        Under an idempotency key that is known nothing is accepted, and what it was answered is answered again. Raises
        what `make_room` and `within` raise, and Unprocessable for a key that was used for something else.
        """
        access.require(who, "run")
        keyed = order.options.key is not None
        if keyed and (known := self._answered(who, order)) is not None:
            return known
        self.make_room(who, len(order.args))
        taken = self._under_key(who, order) if keyed else self._among_others(who, order)
        reach("after_commit")
        return taken

    def make_room(self, who: Principal, more: int) -> None:
        """Raises Overloaded where too many runs of this token wait, Unavailable where the queue is full.

        A queue that is away is the reconciler's matter. One that is full is not: what is accepted must also start one
        day.
        """
        self._backlog.admit(who.name, more)
        if not self._queue.has_room():
            raise Unavailable("The queue is full; try again when some runs have ended.", retry_after=RETRY_AFTER)

    def most_args(self, who: Principal, name: str) -> int:
        """Bytes of the largest args that a run of this deployment may have, before any of them is kept.

        Raises what `make_room` raises, NotFound, and Conflict (`deployment_not_ready`).
        """
        access.require(who, "run")
        self.make_room(who, 1)
        with self._store.read() as transaction:
            _, version, _ = self._target(transaction, who, name)
        return most_bytes(limits.of(version.settings).memory)

    def within(self, transaction: Transaction, who: Principal, order: Order) -> Accepted:
        """The same inside a transaction of the caller, who announces it after the commit.

        Raises NotFound, Conflict (`deployment_not_ready`), Invalid; then nothing was written.
        """
        row, version, build = self._target(transaction, who, order.name)
        if order.bounded:
            self._check_sync(version)
        age = int(self._max_age(version, order.options) * SECOND)
        told = self._told(who, row, version, order.options.callback)
        rows = tuple(_record(who, row, version, build, order, age, n) for n in range(len(order.args)))
        if rows:
            executions.add(transaction, rows)
        if told is not None:
            callbacks.add(transaction, [replace(told, execution=each.uuid) for each in rows])
        spec = wakeups.sandbox(row.name, version) if build is None else None
        reach("before_commit")
        settings = version.settings
        return Accepted(rows=rows, timeout=settings.timeout or 0.0, concurrency=settings.concurrency or 0, spec=spec)

    def announce(self, accepted: Accepted) -> None:
        """After the commit: count and log the runs, and wake the workers unless a build has to end first."""
        self._bell.wake(self.counted(accepted))

    def counted(self, accepted: Accepted) -> Iterator[Wakeup]:
        """The same for who wakes the workers: the runs are counted and logged, and their wake-ups are given back."""
        for record in accepted.rows:
            _log.info("accepted", execution_id=record.uuid, deployment=record.name, queue=record.queue)
        if accepted.rows:
            self._metrics.accepted("run", accepted.rows[0].name, len(accepted.rows))
        if accepted.spec is None:
            return iter(())
        spec, committed = accepted.spec, now()
        most = accepted.concurrency
        return (wakeups.run(_task(record, committed), spec, self._policy, most) for record in accepted.rows)

    # ------------------------------------------------------------ steps

    def _among_others(self, who: Principal, order: Order) -> Accepted:
        """Take an order in, in a transaction that it may share with others."""
        taken = self._store.together(lambda transaction: self._tried(transaction, who, order))
        if not isinstance(taken, Accepted):
            raise taken
        return taken

    def _tried(self, transaction: Transaction, who: Principal, order: Order) -> Accepted | ApiError:
        """What is wrong with the order is returned: the others in the transaction must not roll back for it."""
        try:
            return self.within(transaction, who, order)
        except (NotFound, Conflict, Invalid) as error:
            return error

    def _under_key(self, who: Principal, order: Order) -> Accepted:
        """The same in a transaction of its own: two that hold keys for others could wait for each other's."""
        key = order.options.key or ""
        with self._store.write() as transaction:
            keys.alone(transaction, who.name, key)
            if (known := self._known(transaction, who, order)) is not None:
                return known
            accepted = self.within(transaction, who, order)
            keys.add(transaction, who.name, key, order.digest, accepted.uuids, now())
        return accepted

    def _answered(self, who: Principal, order: Order) -> Accepted | None:
        with self._store.read() as transaction:
            return self._known(transaction, who, order)

    def _known(self, transaction: Transaction, who: Principal, order: Order) -> Accepted | None:
        """What the order's key was answered before. Raises Unprocessable."""
        kept = keys.find(transaction, who.name, order.options.key or "")
        if kept is None:
            return None
        first = next(iter(kept.executions), None)
        if kept.digest != order.digest:
            raise Unprocessable(
                "This Idempotency-Key was used for another request: take a new key, or send the same request again.",
                execution_id=first,
            )
        row = executions.tracked(transaction, [first]).get(first) if first else None
        version = self._version(transaction, row.version_id) if row and row.version_id else None
        timeout = version.settings.timeout if version else None
        return Accepted(rows=(), timeout=timeout or 0.0, repeated=kept.executions)

    def _told(self, who: Principal, row: DeploymentRow, version: Version, said: str | None) -> Callback | None:
        """Who is told of the end of each run, signed for who named the address. Raises Invalid."""
        url, owner = (version.settings.callback_url, row.owner) if said is None else (said, who.name)
        if said and (problem := rules.problem(said, self._policy.callback_networks)):
            raise Invalid.fields(FieldError(field="Callback-Url", message=problem))
        return Callback(execution="", owner=owner, url=url, host=rules.place(url)[1]) if url else None

    def _max_age(self, version: Version, options: RunOptions) -> float:
        """Seconds that a run may wait for its start. Raises Invalid."""
        most = self._policy.max_age
        if options.max_age is not None and not 0 < options.max_age <= most:
            message = f"must be more than 0 and at most {most:g} seconds"
            raise Invalid.fields(FieldError(field="Max-Queue-Age", message=message))
        return options.max_age or min(version.settings.max_age or most, most)

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

    def _check_sync(self, version: Version) -> None:
        timeout, most = version.settings.timeout or 0.0, self._policy.max_sync_timeout
        if timeout > most:
            message = f"{timeout:g} seconds are too long to wait for (at most {most:g}); run it in the background"
            raise Invalid.fields(FieldError(field="timeout", message=message))


def _record(
    who: Principal, row: DeploymentRow, version: Version, build: str | None, order: Order, age: int, n: int
) -> NewExecution:
    """The record of the `n`th run of an order. `age`: microseconds that it may wait for its start."""
    created = now() + n  # the runs of one bulk call keep their order in lists
    args = order.args[n]
    blob = args if isinstance(args, LargeValue) else None
    return NewExecution(
        uuid=new_execution_id(),
        kind="run",
        name=row.name,
        owner=who.name,
        queue=order.queue,
        token=new_token(),
        created=created,
        expires=created + age,
        waits_for=build,
        deployment=row.name,
        deployment_id=row.id,
        deployment_owner=row.owner,
        version=version.number,
        version_id=version.id,
        args=args if isinstance(args, str) else None,
        traceparent=order.options.traceparent,
        args_blob=blob.digest if blob else None,
        args_size=blob.size if blob else None,
    )


def _task(row: NewExecution, committed: int) -> Task:
    return Task(
        uuid=row.uuid,
        attempt=row.attempt,
        token=row.token,
        queue=row.queue,
        created=row.created,
        expires=row.expires,
        args=large(row.args_blob, row.args_size) or row.args,
        traceparent=row.traceparent,
        committed=committed,
    )


def _not_ready(name: str, version: Version) -> Conflict:
    return Conflict(
        f"{name} cannot run: its build {version.build} failed ({version.reason}). See its log, then update it.",
        code="deployment_not_ready",
        execution_id=version.build,
        extra={"build": version.build, "reason": version.reason},
    )
