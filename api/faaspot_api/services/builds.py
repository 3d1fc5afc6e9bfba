"""What the start and the end of a build mean for its version, its deployment and the runs that wait for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from faaspot_api.domain.egress import listed
from faaspot_api.domain.model import Version
from faaspot_api.domain.states import End
from faaspot_api.store import deployments, executions
from faaspot_api.store.blobs import Blobs
from faaspot_api.store.engine import Transaction
from faaspot_api.store.executions import Tracked
from faaspot_runner.contract import BuildOutcome, Error, Release

WAITED = End(status="Failure", reason="build_failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What follows from a build's end: its output line, what the spots may let go, the runs that waited for it."""

    line: str
    released: Release
    waiting: tuple[Tracked, ...]


def summary(version: Version) -> str:
    """Where and how a version runs, for its build's log."""
    settings = version.settings
    places = listed(settings.egress)
    only = "" if places is None else f" (only {', '.join(places)})"
    return f"python {settings.python}, runtime {settings.runtime}, network {settings.network}{only}"


def ready_line(name: str, number: int) -> str:
    """The output of a build that succeeded."""
    return f"Version {number} of {name} is ready."


def succeeded(transaction: Transaction, blobs: Blobs, row: Tracked, outcome: BuildOutcome | None, at: int) -> Built:
    """The version is ready, and current unless a later decision stands. Call with the blobs held."""
    version_id, deployment_id = _ids(row)
    lock = None if outcome is None or outcome.lock is None else blobs.put(outcome.lock.encode())
    environment, archive = (None, None) if outcome is None else (outcome.environment, outcome.archive)
    # A spot may say anything of what it has brought; what is not there is installed from the lock.
    archive = archive if archive is not None and blobs.has(archive) else None
    deployments.set_built(transaction, version_id, lock, environment, archive)
    released = _make_current(transaction, deployment_id, version_id, row.version or 0, at)
    waiting = executions.waiting_for(transaction, row.uuid)
    executions.mark_ready(transaction, row.uuid)
    return Built(line=ready_line(row.name, row.version or 0), released=released, waiting=waiting)


def failed(transaction: Transaction, row: Tracked, reason: str | None) -> tuple[Tracked, ...]:
    """The version will never be ready; returns the runs that waited for it, which end with it."""
    version_id, deployment_id = _ids(row)
    deployments.alone(transaction, deployment_id)  # no run that waits is accepted from here to the commit
    deployments.set_status(transaction, version_id, "failed", reason)
    return executions.waiting_for(transaction, row.uuid)


def started(transaction: Transaction, row: Tracked) -> None:
    """The build runs."""
    deployments.set_status(transaction, _ids(row)[0], "in-progress")


def retried(transaction: Transaction, row: Tracked) -> None:
    """The build waits for another attempt."""
    deployments.set_status(transaction, _ids(row)[0], "pending")


def waited_error(row: Tracked, why: str) -> Error:
    """What the runs that waited for a build are told."""
    return Error(type="BuildFailed", message=f"The build {row.uuid} that this run waited for failed: {why}")


def log_end(version: Version | None, log: str, line: str) -> str:
    """The build's log with a last line that says how it ended and where the version runs."""
    more = f"{line}\n" if version is None else f"{line} ({summary(version)})\n"
    return f"{log}{'' if not log or log.endswith(chr(10)) else chr(10)}{more}"


def _make_current(transaction: Transaction, deployment_id: str, version_id: str, number: int, at: int) -> Release:
    row = deployments.alone(transaction, deployment_id)
    if row is None or row.deleted is not None or number <= row.floor:
        return Release()
    deployments.save(transaction, replace(row, current_id=version_id, floor=number, updated=at))
    return Release(version_ids=() if row.current_id is None else (row.current_id,))


def _ids(row: Tracked) -> tuple[str, str]:
    if row.version_id is None or row.deployment_id is None:
        raise ValueError(f"build {row.uuid} names no version")
    return row.version_id, row.deployment_id
