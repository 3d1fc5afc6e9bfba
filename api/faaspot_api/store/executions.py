"""The executions: one row each, and the only statements that write or read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, and_, bindparam, insert, or_, select, update

from faaspot_api.domain.model import Args, Execution, Filter, large
from faaspot_api.domain.states import State
from faaspot_api.errors import TooLarge
from faaspot_api.store.engine import Transaction
from faaspot_api.store.listed import is_one_of
from faaspot_api.store.moments import from_micros, maybe, to_micros
from faaspot_api.store.prepared import Prepared
from faaspot_api.store.reruns import was_rerun
from faaspot_api.store.tables import executions
from faaspot_runner.contract import TERMINAL, Kind, Reason, Status

C = executions.c
MAX_BYTES = 32 * 1024 * 1024
"""What the records of one answer may hold together. A single one has two values of at most 8 MB."""
RECORD_BYTES = 700
"""Of a record without its values."""
ROWS = 10
"""Rows fetched at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose executions are seen: all, those that `owner` asked for, those of `deployment_owner`'s deployments."""

    owner: str | None = None
    deployment_owner: str | None = None


EVERYTHING = Scope()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExecution:
    """A row to be. Times in microseconds; `args`, `output` and `error` are JSON texts; `queue` as in the contract."""

    uuid: str
    kind: Kind
    name: str
    owner: str
    queue: str
    token: str
    created: int
    status: Status = "Pending"
    attempt: int = 1
    cancelling: bool = False
    started: int | None = None
    ended: int | None = None
    expires: int | None = None
    waits_for: str | None = None
    deployment: str | None = None
    deployment_id: str | None = None
    deployment_owner: str | None = None
    version: int | None = None
    version_id: str | None = None
    reason: Reason | None = None
    logs_truncated: bool = False
    output: str | None = None
    args: str | None = None
    traceparent: str | None = None
    args_blob: str | None = None
    args_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What came with the request: its args, as JSON text or as a large value, and its header."""

    args: Args | None
    traceparent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """What recorder and reconciler look at; without the parts that can be megabytes."""

    seq: int
    uuid: str
    state: State
    created: int
    started: int | None
    expires: int | None
    name: str
    owner: str
    queue: str
    waits_for: str | None
    deployment_id: str | None
    version: int | None
    version_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The end of a row. `timings` and `usage` without their empty values; `output` and `error` are JSON texts.

    `output_blob`, `output_size`: of an output that is kept as a blob.
    """

    seq: int
    status: Status
    reason: Reason | None
    started: int | None
    ended: int
    spot: str | None
    output: str | None
    error: str | None
    logs_truncated: bool
    timings: dict[str, Any]
    usage: dict[str, Any]
    output_blob: str | None = None
    output_size: int | None = None


_INSERT = Prepared(insert(executions), NewExecution.__slots__)
_START = (
    update(executions)
    .where(C.seq == bindparam("row"))
    .values(status="Started", started=bindparam("at"), spot=bindparam("where"))
)
_RETRY = (
    update(executions)
    .where(C.seq == bindparam("row"))
    .values(
        status="Pending",
        attempt=bindparam("next_attempt"),
        token=bindparam("next_token"),
        expires=bindparam("latest"),
        started=None,
        spot=None,
    )
)
_CANCELLING = update(executions).where(C.seq == bindparam("row")).values(cancelling=True)
_END = Prepared(
    update(executions).where(C.seq == bindparam("row")),
    (
        "status", "reason", "started", "ended", "spot", "waits_for", "output", "error", "logs_truncated", "timings",
        "usage", "output_blob", "output_size",
    ),
)  # fmt: skip
_RECORD = select(*(C[name] for name in Execution.__slots__))
_RECORD_ONE = _RECORD.where(C.uuid == bindparam("wanted"))
_TIMED = Prepared(update(executions).where(C.uuid == bindparam("wanted"), C.ended.is_not(None)), ("timings",))
_TRACKED_COLUMNS = (
    C.seq, C.uuid, C.kind, C.status, C.attempt, C.token, C.cancelling, C.created, C.started, C.expires,
    C.name, C.owner, C.queue, C.waits_for, C.deployment_id, C.version, C.version_id,
)  # fmt: skip
_TRACKED = select(*_TRACKED_COLUMNS)
_TRACKED_ONE = Prepared(_TRACKED.where(C.uuid == bindparam("wanted")).with_for_update())
_OPEN = C.ended.is_(None)
_HAS_ENDED = select(C.ended.is_not(None)).where(C.uuid == bindparam("wanted"))


# ---------------------------------------------------------------- writing


def add(transaction: Transaction, rows: Sequence[NewExecution]) -> None:
    """Insert new rows, in order."""
    _INSERT.run(transaction, [{name: getattr(row, name) for name in NewExecution.__slots__} for row in rows])


def mark_started(transaction: Transaction, rows: Iterable[tuple[int, int, str]]) -> None:
    """(seq, microseconds, spot) of attempts that have begun."""
    _many(transaction, _START, [{"row": seq, "at": at, "where": spot} for seq, at, spot in rows])


def mark_retried(transaction: Transaction, rows: Iterable[Tracked]) -> None:
    """These wait for another attempt, with the attempt, token and last moment that they have here."""
    values = [
        {"row": row.seq, "next_attempt": row.state.attempt, "next_token": row.state.token, "latest": row.expires}
        for row in rows
    ]
    _many(transaction, _RETRY, values)


def mark_ended(transaction: Transaction, endings: Iterable[Ending]) -> None:
    """Write the ends of rows that had none."""
    _END.run(transaction, [_ending(ending) for ending in endings])


def mark_timed(transaction: Transaction, timings: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the timings of rows that have ended, by id, once more."""
    tracked(transaction, list(timings))  # held in the order in which everybody holds rows
    _TIMED.run(transaction, [{"wanted": uuid, "timings": json.dumps(timed)} for uuid, timed in timings.items()])


def mark_cancelling(transaction: Transaction, rows: Iterable[int]) -> None:
    """Someone has asked for the end of these running attempts (seq)."""
    _many(transaction, _CANCELLING, [{"row": seq} for seq in rows])


def mark_ready(transaction: Transaction, build: str) -> None:
    """Nothing waits for this build any more."""
    transaction.execute(update(executions).where(C.waits_for == build).values(waits_for=None))


def _many(transaction: Transaction, statement: Any, values: list[dict[str, Any]]) -> None:
    if values:
        transaction.execute(statement, values)


def _ending(ending: Ending) -> dict[str, Any]:
    return {
        "row": ending.seq,
        "status": ending.status,
        "reason": ending.reason,
        "started": ending.started,
        "ended": ending.ended,
        "spot": ending.spot,
        "waits_for": None,
        "output": ending.output,
        "error": ending.error,
        "logs_truncated": ending.logs_truncated,
        "timings": json.dumps(ending.timings) if ending.timings else None,
        "usage": json.dumps(ending.usage) if ending.usage else None,
        "output_blob": ending.output_blob,
        "output_size": ending.output_size,
    }


# ---------------------------------------------------------------- reading


def get(transaction: Transaction, uuid: str, scope: Scope = EVERYTHING) -> Execution | None:
    """The record, None if there is none in `scope`."""
    row = transaction.execute(_scoped(_RECORD_ONE, scope), {"wanted": uuid}).one_or_none()
    return None if row is None else _execution(row)


def get_many(
    transaction: Transaction, uuids: Sequence[str], scope: Scope = EVERYTHING, most: int = MAX_BYTES
) -> dict[str, Execution]:
    """The records that there are in `scope`, by id. Raises TooLarge if they hold more than `most` bytes."""
    found: dict[str, Execution] = {}
    size = 0
    statement = _scoped(_RECORD.where(is_one_of(transaction, C.uuid, uuids)), scope)
    with _read(transaction, statement) as rows:
        for row in rows:
            size += _size(row)
            if size > most:
                raise TooLarge(f"These records hold more than {most // 2**20} MB together: ask for fewer at a time.")
            found[row.uuid] = _execution(row)
    return found


def page(
    transaction: Transaction,
    wanted: Filter,
    scope: Scope,
    limit: int,
    after: tuple[int, int] | None,
    most: int = MAX_BYTES,
) -> tuple[tuple[Execution, ...], tuple[int, int] | None]:
    """At most `limit` records, newest first, beginning past the key `after`; and the key of the next page.

    The page ends before its records hold more than `most` bytes, but has one if there is one.
    """
    statement = _filtered(_scoped(_RECORD.add_columns(C.seq), scope), wanted)
    if after is not None:
        created, seq = after
        statement = statement.where(C.created <= created, or_(C.created < created, C.seq < seq))
    items: list[Execution] = []
    key, size = (0, 0), 0
    with _read(transaction, statement.order_by(C.created.desc(), C.seq.desc()).limit(limit + 1)) as rows:
        for row in rows:
            size += _size(row)
            if len(items) == limit or (items and size > most):
                return tuple(items), key
            items.append(_execution(row))
            key = row.created, row.seq
    return tuple(items), None


def tracked(transaction: Transaction, uuids: Sequence[str]) -> dict[str, Tracked]:
    """What there is of these, by id, held against other writers until the transaction ends."""
    if len(uuids) == 1:  # by far the most frequent: a sync caller records the end of its own run
        one = _TRACKED_ONE.one(transaction, {"wanted": uuids[0]})
        return {} if one is None else {uuids[0]: _tracked(one)}
    several = _TRACKED.where(is_one_of(transaction, C.uuid, uuids)).order_by(C.seq).with_for_update()
    return {row.uuid: _tracked(tuple(row)) for row in transaction.execute(several)}


def ended_of(transaction: Transaction, uuids: Sequence[str]) -> frozenset[str]:
    """Those of these that have ended."""
    statement = select(C.uuid).where(is_one_of(transaction, C.uuid, uuids), C.ended.is_not(None))
    return frozenset(transaction.execute(statement).scalars())


def has_ended(transaction: Transaction, uuid: str, scope: Scope = EVERYTHING) -> bool | None:
    """Whether it has ended, None if there is no such execution in `scope`."""
    return transaction.execute(_scoped(_HAS_ENDED, scope), {"wanted": uuid}).scalar_one_or_none()


def open_rows(transaction: Transaction, after: tuple[int, int], limit: int) -> tuple[Tracked, ...]:
    """At most `limit` rows that have not ended, oldest first, past the key `after` (created, seq)."""
    created, seq = after
    past = and_(C.created >= created, or_(C.created > created, C.seq > seq))
    statement = _TRACKED.where(_OPEN, past).order_by(C.created, C.seq).limit(limit)
    return tuple(_tracked(tuple(row)) for row in transaction.execute(statement))


def any_open_of_deployment(transaction: Transaction, deployment_id: str) -> bool:
    """Whether anything of a deployment has not ended."""
    statement = select(C.seq).where(_OPEN, C.deployment_id == deployment_id).limit(1)
    return transaction.execute(statement).one_or_none() is not None


def stoppable_of_deployment(transaction: Transaction, deployment_id: str, limit: int) -> tuple[Tracked, ...]:
    """At most `limit` rows of a deployment that have not ended, without runs that have started; held against others.

    Runs come first: they are to be cancelled, not failed by their build.
    """
    other = C.kind != "run"
    wanted = _TRACKED.where(_OPEN, C.deployment_id == deployment_id, or_(other, C.status == "Pending"))
    statement = wanted.order_by(other, C.created, C.seq).limit(limit).with_for_update()
    return tuple(_tracked(tuple(row)) for row in transaction.execute(statement))


def waiting_for(transaction: Transaction, build: str) -> tuple[Tracked, ...]:
    """The runs that wait for a build, in the order in which they came, held against other writers."""
    statement = _TRACKED.where(C.waits_for == build).order_by(C.seq).with_for_update()
    return tuple(_tracked(tuple(row)) for row in transaction.execute(statement))


def given(transaction: Transaction, uuids: Sequence[str]) -> dict[str, Given]:
    """What came with the requests for these, by id."""
    columns = C.uuid, C.args, C.traceparent, C.args_blob, C.args_size
    statement = select(*columns).where(is_one_of(transaction, C.uuid, uuids))
    return {
        row.uuid: Given(args=large(row.args_blob, row.args_size) or row.args, traceparent=row.traceparent)
        for row in transaction.execute(statement)
    }


@contextmanager
def _read(transaction: Transaction, statement: Select[Any]) -> Iterator[Iterable[Row[*tuple[Any, ...]]]]:
    """The rows, a few in memory at a time: each may be megabytes."""
    rows = transaction.execute(statement, execution_options={"yield_per": ROWS})
    try:
        yield rows
    finally:
        rows.close()


def _size(row: Row[*tuple[Any, ...]]) -> int:
    """Bytes that the record takes in an answer, about."""
    texts = (text for text in (row.output, row.args, row.error) if text)
    return RECORD_BYTES + sum(len(text) if text.isascii() else len(text.encode()) for text in texts)


def _scoped(statement: Select[Any], scope: Scope) -> Select[Any]:
    if scope.owner is not None:
        statement = statement.where(C.owner == scope.owner)
    if scope.deployment_owner is not None:
        statement = statement.where(C.deployment_owner == scope.deployment_owner)
    return statement


def _filtered(statement: Select[Any], wanted: Filter) -> Select[Any]:
    """Says `ended IS [NOT] NULL` beside a status, too: that is the condition of the partial indexes."""
    if wanted.deployment is not None:
        statement = statement.where(C.deployment == wanted.deployment)
    if wanted.reason is not None:
        statement = statement.where(C.reason == wanted.reason)
    if wanted.kind is not None:
        statement = statement.where(C.kind == wanted.kind)
    if wanted.rerun is not None:
        statement = statement.where(was_rerun() if wanted.rerun else ~was_rerun())
    if wanted.status is not None:
        statement = statement.where(C.status == wanted.status, C.ended.is_not(None) if _ends(wanted.status) else _OPEN)
    if wanted.status is None and wanted.reason is None and not wanted.ended:
        statement = statement.where(_OPEN)
    if wanted.since is not None:
        statement = statement.where(C.created >= to_micros(wanted.since))
    if wanted.until is not None:
        statement = statement.where(C.created < to_micros(wanted.until))
    return statement


def _ends(status: Status) -> bool:
    return status in TERMINAL


def _execution(row: Row[*tuple[Any, ...]]) -> Execution:
    return Execution(
        uuid=row.uuid,
        name=row.name,
        deployment=row.deployment,
        version=row.version,
        kind=row.kind,
        status=row.status,
        reason=row.reason,
        output=row.output,
        error=json.loads(row.error) if row.error else None,
        args=row.args,
        created=from_micros(row.created),
        started=maybe(row.started),
        ended=maybe(row.ended),
        spot=row.spot,
        attempt=row.attempt,
        timings=json.loads(row.timings) if row.timings else {},
        usage=json.loads(row.usage) if row.usage else {},
        logs_truncated=row.logs_truncated,
        owner=row.owner,
        traceparent=row.traceparent,
        output_blob=row.output_blob,
        output_size=row.output_size,
        args_blob=row.args_blob,
        args_size=row.args_size,
    )


def _tracked(row: tuple[Any, ...]) -> Tracked:
    """From the columns of `_TRACKED`."""
    seq, uuid, kind, status, attempt, token, cancelling, created, started, expires, *rest = row
    name, owner, queue, waits_for, deployment_id, version, version_id = rest
    return Tracked(
        seq=seq,
        uuid=uuid,
        state=State(kind=kind, status=status, attempt=attempt, token=token, cancelling=bool(cancelling)),
        created=created,
        started=started,
        expires=expires,
        name=name,
        owner=owner,
        queue=queue,
        waits_for=waits_for,
        deployment_id=deployment_id,
        version=version,
        version_id=version_id,
    )
