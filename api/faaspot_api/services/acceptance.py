"""How a run is accepted: its record is committed before the caller hears its id, and only then a worker is woken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faaspot_api.domain.model import Principal, Version
from faaspot_api.domain.names import is_name, new_execution_id
from faaspot_api.errors import Conflict, FieldError, Invalid, Unavailable
from faaspot_api.queue.base import Queue
from faaspot_api.services import access, wakeups
from faaspot_api.services.backlog import RETRY_AFTER, Backlog
from faaspot_api.services.policy import Policy
from faaspot_api.services.recorder import new_token
from faaspot_api.services.wakeups import Bell, Task
from faaspot_api.store import deployments, executions
from faaspot_api.store.deployments import DeploymentRow
from faaspot_api.store.engine import Store, Transaction
from faaspot_api.store.executions import NewExecution
from faaspot_api.store.moments import SECOND, now

MAX_READY = 1000
"""Versions remembered; each is a few hundred bytes and its requirements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Runs of one deployment that were accepted together. `build`: the one that has to end first, if any."""

    deployment: str
    version: Version
    build: str | None
    rows: tuple[NewExecution, ...]


class Acceptance:
    """Takes runs in."""

    def __init__(self, store: Store, queue: Queue, policy: Policy) -> None:
        self._store = store
        self._queue = queue
        self._policy = policy
        self._bell = Bell(queue)
        self._backlog = Backlog(store, policy.max_pending)
        self._ready: dict[str, Version] = {}

    def accept(self, who: Principal, name: str, texts: Sequence[str], queue: str, *, bounded: bool = False) -> Accepted:
        """Commit the records, all or none, then wake the workers.

        `bounded`: somebody waits, so the deployment's timeout must not be too long for that. Raises what `make_room`
        and `within` raise.
        """
        access.require(who, "run")
        self.make_room(who, len(texts))
        with self._store.write() as transaction:
            accepted = self.within(transaction, who, name, texts, queue, bounded=bounded)
        self.wake(accepted)
        return accepted

    def make_room(self, who: Principal, more: int) -> None:
        """Raises Overloaded where too many runs of this token wait, Unavailable where the queue is full.

        A queue that is away is the reconciler's matter. One that is full is not: what is accepted must also start one
        day.
        """
        self._backlog.admit(who.name, more)
        if not self._queue.has_room():
            raise Unavailable("The queue is full; try again when some runs have ended.", retry_after=RETRY_AFTER)

    def within(
        self,
        transaction: Transaction,
        who: Principal,
        name: str,
        texts: Sequence[str],
        queue: str,
        *,
        bounded: bool = False,
    ) -> Accepted:
        """The same inside a transaction of the caller, who wakes the workers after the commit.

        Raises NotFound, Conflict (`deployment_not_ready`), Invalid.
        """
        row, version, build = self._target(transaction, who, name)
        if bounded:
            self._check_sync(version)
        rows = tuple(self._record(who, row, version, build, text, queue, n) for n, text in enumerate(texts))
        if rows:
            executions.add(transaction, rows)
        return Accepted(deployment=row.name, version=version, build=build, rows=rows)

    def wake(self, accepted: Accepted) -> None:
        """Wake the workers, unless a build has to end first."""
        if accepted.build is None:
            spec = wakeups.sandbox(accepted.deployment, accepted.version)
            self._bell.wake(wakeups.run(_task(record), spec) for record in accepted.rows)

    # ------------------------------------------------------------ steps

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


def _task(row: NewExecution) -> Task:
    return Task(
        uuid=row.uuid,
        attempt=row.attempt,
        token=row.token,
        queue=row.queue,
        created=row.created,
        expires=row.expires,
        args=row.args,
    )


def _not_ready(name: str, version: Version) -> Conflict:
    return Conflict(
        f"{name} cannot run: its build {version.build} failed ({version.reason}). See its log, then update it.",
        code="deployment_not_ready",
        execution_id=version.build,
        extra={"build": version.build, "reason": version.reason},
    )
