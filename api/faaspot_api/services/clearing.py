"""Removing what nobody needs any more: what waits of deleted deployments, blobs and environments of theirs, and blobs
of changes that failed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import structlog

from faaspot_api.errors import Unavailable
from faaspot_api.services.policy import Policy
from faaspot_api.services.recorder import Recorder
from faaspot_api.services.wakeups import Bell
from faaspot_api.store import archives, deployments, executions
from faaspot_api.store.blobs import Blobs
from faaspot_api.store.engine import Store, Transaction
from faaspot_api.store.moments import SECOND, now
from faaspot_runner.contract import Release

_log = structlog.get_logger(__name__)


class Clearing:
    """Clears after deletes. Nothing here fails the caller: what could not be done is done by the reconciler."""

    def __init__(self, store: Store, blobs: Blobs, bell: Bell, recorder: Recorder, policy: Policy) -> None:
        self._store = store
        self._blobs = blobs
        self._bell = bell
        self._recorder = recorder
        self._policy = policy

    def clear_all(self) -> None:
        """Every deleted deployment that is not cleared yet and has no run any more."""
        with self._store.read() as transaction:
            left = deployments.uncleared(transaction)
        for row in left:
            self.clear(row.id, "the deletion of its deployment")

    def clear(self, deployment_id: str, by: str) -> None:
        """End what of this deleted deployment has not started, in the name of `by`, and its builds.

        Then remove what only it needed, unless runs of it go on: they may have to read it.
        """
        try:
            self._recorder.cancel_deployment(deployment_id, by)
            with self._store.write() as transaction:
                release = self._clear(transaction, deployment_id)
        except (Unavailable, OSError) as error:
            _log.warning("clearing_postponed", deployment=deployment_id, why=str(error))
        else:
            self._bell.release([release])

    def drop(self, digests: Iterable[str | None]) -> None:
        """Remove blobs of a change that did not come about, if nobody else refers to them."""
        try:
            with self._store.write() as transaction:
                deployments.alone_with_blobs(transaction)
                self._delete(transaction, digests)
        except (Unavailable, OSError) as error:
            _log.warning("clearing_failed", why=str(error))

    def drop_archives(self) -> None:
        """Remove packed environments that were brought a while ago and that no version has."""
        try:
            with self._store.write() as transaction:
                deployments.alone_with_blobs(transaction)
                before = now() - int(self._policy.archive_seconds * SECOND)
                left = archives.unclaimed(transaction, before)
                self._delete(transaction, left)
                archives.forget(transaction, left)
        except (Unavailable, OSError) as error:
            _log.warning("clearing_failed", why=str(error))

    def _clear(self, transaction: Transaction, deployment_id: str) -> Release:
        """The files go before the commit that says so: killed in between, it is done once more."""
        deployments.alone_with_blobs(transaction)
        row = deployments.alone(transaction, deployment_id)
        if row is None or row.deleted is None or row.cleared is not None:
            return Release()
        if executions.any_open_of_deployment(transaction, deployment_id):
            return Release()
        versions = deployments.versions_of(transaction, deployment_id)
        for version in versions:
            self._delete(transaction, (version.code, version.context, version.lock, version.archive))
        environments = {version.environment for version in versions if version.environment}
        deployments.save(transaction, replace(row, cleared=now()))
        return Release(
            version_ids=tuple(version.id for version in versions),
            environments=tuple(sorted(deployments.unneeded_environments(transaction, environments))),
        )

    def _delete(self, transaction: Transaction, digests: Iterable[str | None]) -> None:
        unneeded = deployments.unneeded_blobs(transaction, {digest for digest in digests if digest})
        for digest in unneeded:
            self._blobs.delete(digest)
        archives.forget(transaction, unneeded)
