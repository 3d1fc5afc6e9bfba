"""What goes of old records: found along one index, deleted a few at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import delete, func, literal, select

from faaspot_api.store.engine import Transaction
from faaspot_api.store.listed import is_one_of
from faaspot_api.store.tables import callback_tries, callbacks, deployments, events, executions, logs, reruns, versions

C = executions.c
_ENDED = C.ended.is_not(None)
"""The condition of the index (deployment_id, kind, ended)."""
_LENGTH = sum((func.coalesce(func.length(each), 0) for each in (C.output, C.args, logs.c.text)), literal(0))
PART_BYTES = 4 * 1024 * 1024
"""What the runs of one part may have together: SQLite frees about as much in a twentieth of a second."""
ROWS = 10
"""Rows fetched at once: to find the length of a text SQLite reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a deployment says of the records of its runs; None: nothing."""

    days: float | None = None
    runs: int | None = None


def deployments_with_ends(transaction: Transaction) -> tuple[str, ...]:
    """The ids of all deployments, deleted ones too, of which anything has ended: one step in the index for each."""
    least = select(func.min(C.deployment_id)).where(_ENDED)
    steps = least.label("id")
    walk = select(steps).cte("walk", recursive=True)
    following = least.where(C.deployment_id > walk.c.id).correlate(walk).scalar_subquery()
    walk = walk.union_all(select(following).where(walk.c.id.is_not(None)))
    return tuple(transaction.execute(select(walk.c.id).where(walk.c.id.is_not(None))).scalars())


def kept(transaction: Transaction, deployment_ids: Iterable[str]) -> dict[str, Kept]:
    """What each of these says that has not been deleted."""
    newest = func.coalesce(deployments.c.current_id, deployments.c.newest_id)
    statement = (
        select(deployments.c.id, versions.c.settings)
        .join(versions, versions.c.id == newest)
        .where(is_one_of(transaction, deployments.c.id, deployment_ids), deployments.c.deleted.is_(None))
    )
    found = ((row.id, json.loads(row.settings)) for row in transaction.execute(statement))
    return {each: Kept(days=said.get("keep_days"), runs=said.get("keep_runs")) for each, said in found}


def end_of_the_last_kept(transaction: Transaction, deployment_id: str, runs: int) -> int | None:
    """When the newest of those ended (microseconds) that are beyond the newest `runs`, None if there are no more."""
    statement = select(C.ended).where(C.deployment_id == deployment_id, _ENDED, C.kind == "run")
    found: int | None = transaction.execute(
        statement.order_by(C.ended.desc()).offset(runs).limit(1)
    ).scalar_one_or_none()
    return found


def purge(transaction: Transaction, deployment_id: str, until: int, most: int) -> int:
    """Delete at most `most` runs that ended up to `until` (microseconds), oldest first; how many went, 0: all have.

    Fewer where their values are long. One whose end is still to be told to somebody stays until it is.
    """
    old = _oldest(transaction, deployment_id, until, most)
    if old:
        uuids = list(old.values())
        for column in (
            logs.c.execution,
            events.c.execution,
            callback_tries.c.execution,
            callbacks.c.execution,
            reruns.c.execution,
            reruns.c.of,
        ):
            transaction.execute(delete(column.table).where(is_one_of(transaction, column, uuids)))
        transaction.execute(delete(executions).where(C.seq.in_(list(old))))
    return len(old)


def _oldest(transaction: Transaction, deployment_id: str, until: int, most: int) -> dict[int, str]:
    """The ids of those that go next, by `seq`: one at least, and no more than have `PART_BYTES` together."""
    untold = select(callbacks.c.execution).where(callbacks.c.execution == C.uuid, callbacks.c.status == "pending")
    statement = (
        select(C.seq, C.uuid, _LENGTH.label("length"))
        .select_from(executions.outerjoin(logs, logs.c.execution == C.uuid))
        .where(C.deployment_id == deployment_id, _ENDED, C.ended <= until, C.kind == "run", ~untold.exists())
        .order_by(C.ended)
        .limit(most)
    )
    found: dict[int, str] = {}
    left = PART_BYTES
    rows = transaction.execute(statement, execution_options={"yield_per": ROWS})
    for row in rows:
        left -= row.length
        if found and left < 0:
            break
        found[row.seq] = row.uuid
    rows.close()
    return found


def unneeded_blobs(transaction: Transaction, digests: Iterable[str]) -> frozenset[str]:
    """Those of `digests` that no record refers to, and no version of a deployment that has not been cleared."""
    left, of = set(digests), versions.c
    alive = versions.join(deployments, deployments.c.id == of.deployment_id)
    for column in (of.code, of.context, of.lock, of.archive):
        statement = select(column).select_from(alive).where(deployments.c.cleared.is_(None))
        needed = statement.where(is_one_of(transaction, column, left))
        left -= set(transaction.execute(needed).scalars())
    for column in (C.output_blob, C.args_blob):
        left -= set(transaction.execute(select(column).where(is_one_of(transaction, column, left))).scalars())
    return frozenset(left)
