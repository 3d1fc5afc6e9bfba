"""Deployments: made, changed, rolled back, deleted. Each change is an execution of kind `build` or `delete`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from faaspot_api.domain import context as contexts
from faaspot_api.domain import names
from faaspot_api.domain.model import Deployment, DeploymentChange, Principal, Version
from faaspot_api.domain.seal import seal
from faaspot_api.errors import Conflict, Invalid, NotFound, Unavailable
from faaspot_api.queue.base import Queue
from faaspot_api.services import access, builds, drafts, wakeups
from faaspot_api.services.clearing import Clearing
from faaspot_api.services.drafts import Draft
from faaspot_api.services.offers import Offers
from faaspot_api.services.policy import Policy
from faaspot_api.services.recorder import After, Recorder, new_token
from faaspot_api.services.runtimes import use_runtime
from faaspot_api.services.wakeups import Bell, Task
from faaspot_api.store import deployments, executions, logs, runtimes
from faaspot_api.store.blobs import Blobs, BrokenBlobError
from faaspot_api.store.deployments import DeploymentRow
from faaspot_api.store.engine import Store, Transaction
from faaspot_api.store.executions import NewExecution
from faaspot_api.store.moments import from_micros, now
from faaspot_runner.contract import QUEUE_BUILDS, Kind, Release


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """The bytes of a version's blobs that a change brings. They are kept with the version, or not at all."""

    code: bytes | None
    context: bytes | None

    def keep(self, blobs: Blobs) -> tuple[str | None, str | None]:
        """The digests of both."""
        return (
            None if self.code is None else blobs.put(self.code),
            None if self.context is None else blobs.put(self.context),
        )


class DeploymentService:
    """What people do with deployments. `spot_key`: the spots' public key, 32 bytes, to which contexts are sealed."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        queue: Queue,
        recorder: Recorder,
        clearing: Clearing,
        policy: Policy,
        spot_key: bytes,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._queue = queue
        self._recorder = recorder
        self._policy = policy
        self._spot_key = spot_key
        self._bell = Bell(queue)
        self._clearing = clearing

    # ------------------------------------------------------------ reading

    def get(self, who: Principal, name: str) -> Deployment:
        """One deployment. Raises NotFound."""
        with self._store.read() as transaction:
            return deployments.view(transaction, self._mine(transaction, who, name))

    def list(self, who: Principal) -> tuple[Deployment, ...]:
        """The deployments of this token, by name."""
        access.require(who, "manage")
        with self._store.read() as transaction:
            return deployments.listed(transaction, access.deployments_of(who))

    def versions(self, who: Principal, name: str) -> tuple[Version, ...]:
        """Every version, newest first. Raises NotFound."""
        with self._store.read() as transaction:
            return deployments.versions_of(transaction, self._mine(transaction, who, name).id)

    def version(self, who: Principal, name: str, number: int) -> Version:
        """One version. Raises NotFound."""
        with self._store.read() as transaction:
            row = self._mine(transaction, who, name)
            return _numbered(transaction, row, number)

    def code(self, version: Version) -> str:
        """The code of a version that this caller was given."""
        return self._text(version.code)

    def lock(self, version: Version) -> str | None:
        """The lock of a version, None if it has no requirements or is not built."""
        return None if version.lock is None else self._text(version.lock)

    # ------------------------------------------------------------ changing

    def create(self, who: Principal, name: str, change: DeploymentChange) -> str:
        """Make a deployment; the id of its build. Raises Invalid, TooLarge, Conflict (`exists`), Unavailable."""
        access.require(who, "manage")
        if (bad := names.name_error(name)) is not None:
            raise Invalid.fields(bad)
        draft = drafts.first(change, self._offers(), self._policy)
        with self._store.read() as transaction:
            if deployments.by_name(transaction, name) is not None:
                raise deployments.exists(name)
        version_id = names.new_id()
        with self._keeping(draft, version_id) as (transaction, (code, context)):
            at = now()
            row = DeploymentRow(
                id=names.new_id(), name=name, owner=who.name, current_id=None, newest_id=version_id,
                versions=1, floor=0, created=at, updated=at,
            )  # fmt: skip
            deployments.add(transaction, row)
            version = _version(draft, version_id, 1, at, code=code or "", context=context, base=None)
            uuid, after = self._build(transaction, who, row, version, built=None)
        after.tell(self._bell)
        return uuid

    def update(self, who: Principal, name: str, change: DeploymentChange) -> str:
        """Make the next version, or rename; the id of its build. What is not said stays as it is.

        Without a change of what is installed the version is ready at once; else the current one runs until it is.
        Raises NotFound, Invalid, TooLarge, Conflict (`exists`), Unavailable.
        """
        with self._store.read() as transaction:
            known = self._mine(transaction, who, name)
            base = _by_id(transaction, known.newest_id)
        if change.name is not None and (bad := names.name_error(change.name)) is not None:
            raise Invalid.fields(bad)
        if drafts.is_nothing(change):
            return self._rename(who, name, change.name)
        offers = self._offers() if drafts.needs_offers(change) else None
        draft = drafts.next_after(base, change, offers, self._policy)
        version_id = names.new_id()
        with self._keeping(draft, version_id) as (transaction, kept):
            row = self._renamed(transaction, self._alone(transaction, who, name), change.name)
            if row.newest_id != base.id:  # another update came between: what this one says goes on top of it
                base = _by_id(transaction, row.newest_id)
                draft = drafts.next_after(base, change, None, self._policy)
            version = _next_version(draft, version_id, row.versions + 1, base, kept)
            row = replace(row, newest_id=version_id, versions=version.number, updated=now())
            uuid, after = self._build(transaction, who, row, version, self._same_build(transaction, row, base, draft))
        after.tell(self._bell)
        return uuid

    def rollback(self, who: Principal, name: str, number: int) -> str:
        """Make an older version current again, without a build; the id of the record of that.

        It stands against builds under way: only versions made after it become current by themselves. The next update
        builds on it. Raises NotFound, Conflict (`deployment_not_ready`) for a version that was never ready.
        """
        with self._store.write() as transaction:
            row = self._alone(transaction, who, name)
            version = _numbered(transaction, row, number)
            if version.status != "success":
                raise Conflict(
                    f"Version {number} of {name} was never ready ({version.reason or version.status}).",
                    code="deployment_not_ready",
                    execution_id=version.build,
                )
            use_runtime(transaction, version.settings.runtime or "")
            old, at = row.current_id, now()
            row = replace(row, current_id=version.id, newest_id=version.id, floor=row.versions, updated=at)
            deployments.save(transaction, row)
            line = f"Version {number} of {name} is current again."
            uuid = self._done(transaction, who, row, version, "build", line, f"{line} Nothing had to be built.\n")
        if old is not None and old != version.id:
            self._bell.release([Release(version_ids=(old,))])
        return uuid

    def delete(self, who: Principal, name: str) -> str:
        """Delete a deployment; the id of the record of that. Its executions' records stay.

        What waits is cancelled, builds are cancelled, runs that have started may end. Raises NotFound.
        """
        with self._store.write() as transaction:
            row = self._alone(transaction, who, name)
            at = now()
            deployments.save(transaction, replace(row, deleted=at, updated=at))
            newest = _by_id(transaction, row.newest_id)
            line = f"{name} is deleted."
            uuid = self._done(transaction, who, row, newest, "delete", line, f"{line}\n")
            versions = deployments.versions_of(transaction, row.id)
        self._bell.release([Release(version_ids=tuple(version.id for version in versions))])
        self._clearing.clear(row.id, who.name)
        return uuid

    # ------------------------------------------------------------ steps of a change

    def _build(
        self, transaction: Transaction, who: Principal, row: DeploymentRow, version: Version, built: Version | None
    ) -> tuple[str, After]:
        """Keep the version and its build; `built`: the one whose environment it shares. `row` as it shall be."""
        use_runtime(transaction, version.settings.runtime or "")
        uuid, at, old = names.new_execution_id(), now(), row.current_id
        if built is None and version.packages:
            deployments.add_version(transaction, row.id, replace(version, build=uuid))
            deployments.save(transaction, row)
            task = self._pending(transaction, uuid, who, row, version)
            return uuid, After(wakeups=[wakeups.build(task, row.name, version, self._policy)])
        shared = (
            {} if built is None else {"lock": built.lock, "environment": built.environment, "archive": built.archive}
        )
        version = replace(version, status="success", build=uuid, **shared)  # type: ignore[arg-type]
        deployments.add_version(transaction, row.id, version)
        deployments.save(transaction, replace(row, current_id=version.id, floor=version.number, updated=at))
        line = builds.ready_line(row.name, version.number)
        why = "There are no requirements" if built is None else f"The environment is that of version {built.number}"
        log = builds.log_end(version, f"{why}: nothing has to be installed.\n", line)
        self._done(transaction, who, row, version, "build", line, log, uuid=uuid)
        return uuid, After(releases=[Release(version_ids=() if old is None else (old,))])

    def _pending(
        self, transaction: Transaction, uuid: str, who: Principal, row: DeploymentRow, version: Version
    ) -> Task:
        record = _record(uuid, "build", who, row, version)
        executions.add(transaction, [record])
        return Task(
            uuid=uuid,
            attempt=record.attempt,
            token=record.token,
            queue=record.queue,
            created=record.created,
            expires=None,
            args=None,
        )

    def _done(
        self,
        transaction: Transaction,
        who: Principal,
        row: DeploymentRow,
        version: Version,
        kind: Kind,
        line: str,
        log: str,
        uuid: str | None = None,
    ) -> str:
        """Keep the record of something that was done in this very transaction."""
        uuid = uuid or names.new_execution_id()
        record = _record(uuid, kind, who, row, version)
        at = record.created
        done = replace(record, status="Success", started=at, ended=at, output=json.dumps(line))
        executions.add(transaction, [done])
        logs.keep(transaction, {uuid: log})
        return uuid

    def _rename(self, who: Principal, name: str, new_name: str | None) -> str:
        with self._store.write() as transaction:
            row = self._alone(transaction, who, name)
            renamed = self._renamed(transaction, row, new_name)
            version = _by_id(transaction, row.current_id or row.newest_id)
            line = f"{name} is now {renamed.name}." if renamed != row else f"Nothing to change in {name}."
            return self._done(transaction, who, renamed, version, "build", line, f"{line}\n")

    def _renamed(self, transaction: Transaction, row: DeploymentRow, new_name: str | None) -> DeploymentRow:
        if new_name is None or new_name == row.name:
            return row
        if deployments.by_name(transaction, new_name) is not None:
            raise deployments.exists(new_name)
        row = replace(row, name=new_name, updated=now())
        deployments.save(transaction, row)
        return row

    def _same_build(self, transaction: Transaction, row: DeploymentRow, base: Version, draft: Draft) -> Version | None:
        """A version that is ready and has the very environment that the draft needs."""
        candidates = [base] if row.current_id is None else [base, _by_id(transaction, row.current_id)]
        for version in candidates:
            same = drafts.build_key(version.packages, version.settings) == draft.build_key
            if same and version.packages and version.status == "success":
                return version
        return None

    @contextmanager
    def _keeping(self, draft: Draft, version_id: str) -> Iterator[tuple[Transaction, tuple[str | None, str | None]]]:
        """A writing transaction that has the draft's blobs, and digests of them; without its commit they go again."""
        content = self._content(draft, version_id)
        kept = content.keep(self._blobs)  # the slow part (syncs to disk) before the lock
        try:
            with self._store.write() as transaction:
                deployments.alone_with_blobs(transaction)
                content.keep(self._blobs)  # somebody may have cleared one away meanwhile
                yield transaction, kept
        except BaseException:
            self._clearing.drop(kept)
            raise

    def _content(self, draft: Draft, version_id: str) -> _Content:
        sealed = None
        if draft.context:
            sealed = seal(self._spot_key, contexts.dump(draft.context), version_id)
        return _Content(code=None if draft.code is None else draft.code.encode(), context=sealed)

    def _offers(self) -> Offers:
        with self._store.read() as transaction:
            wanted = runtimes.whole(transaction).wanted
        return Offers.of(self._queue.spots(), wanted)

    def _mine(self, transaction: Transaction, who: Principal, name: str) -> DeploymentRow:
        access.require(who, "manage")
        return _visible(who, name, deployments.by_name(transaction, name) if names.is_name(name) else None)

    def _alone(self, transaction: Transaction, who: Principal, name: str) -> DeploymentRow:
        access.require(who, "manage")
        return _visible(who, name, deployments.by_name_alone(transaction, name) if names.is_name(name) else None)

    def _text(self, digest: str) -> str:
        try:
            return self._blobs.get(digest).decode()
        except BrokenBlobError as error:
            raise Unavailable(
                f"A file of the platform is lost: {error}. Restore the data directory's blobs.",
                code="storage_unavailable",
            ) from error


def _visible(who: Principal, name: str, row: DeploymentRow | None) -> DeploymentRow:
    if row is None or not access.sees(who, row.owner, "manage"):
        raise access.unknown_deployment(name)
    return row


def _by_id(transaction: Transaction, version_id: str) -> Version:
    version = deployments.version(transaction, version_id)
    if version is None:
        raise LookupError(f"version {version_id} is referred to and not there")
    return version


def _numbered(transaction: Transaction, row: DeploymentRow, number: int) -> Version:
    version = deployments.version_numbered(transaction, row.id, number) if 0 < number <= row.versions else None
    if version is None:
        raise NotFound(f"{row.name} has no version {number}.")
    return version


def _version(
    draft: Draft, version_id: str, number: int, at: int, *, code: str, context: str | None, base: Version | None
) -> Version:
    """The version that a draft becomes; without a context of its own it has that of `base`."""
    keeps = base if draft.context is None else None
    return Version(
        id=version_id,
        number=number,
        code=code,
        requirements=draft.requirements,
        lock=None,
        environment=None,
        context_keys=keeps.context_keys if keeps else tuple(sorted(draft.context or ())),
        settings=draft.settings,
        status="pending",
        reason=None,
        build=None,
        created=from_micros(at),
        packages=draft.packages,
        context=keeps.context if keeps else context,
        context_for=keeps.context_for if keeps else (version_id if context else None),
    )


def _next_version(
    draft: Draft, version_id: str, number: int, base: Version, kept: tuple[str | None, str | None]
) -> Version:
    code, context = kept
    return _version(draft, version_id, number, now(), code=code or base.code, context=context, base=base)


def _record(uuid: str, kind: Kind, who: Principal, row: DeploymentRow, version: Version) -> NewExecution:
    return NewExecution(
        uuid=uuid,
        kind=kind,
        name=row.name,
        owner=who.name,
        queue=QUEUE_BUILDS,
        token=new_token(),
        created=now(),
        deployment=row.name,
        deployment_id=row.id,
        deployment_owner=row.owner,
        version=None if kind == "delete" else version.number,
        version_id=version.id,
    )
