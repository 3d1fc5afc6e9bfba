"""What executions wrote, kept once they have ended; and what happened to them on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import insert, select

from faaspot_api.store.engine import Transaction
from faaspot_api.store.prepared import Prepared
from faaspot_api.store.tables import events, logs


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened to an execution after it was accepted. `at`: microseconds."""

    execution: str
    at: int
    attempt: int
    what: str
    detail: str | None = None


_KEEP = Prepared(insert(logs), ("execution", "text"))
_NOTE = Prepared(insert(events), Event.__slots__)


def keep(transaction: Transaction, texts: dict[str, str]) -> None:
    """Store the logs of executions that end in this transaction, by id; empty ones take no row."""
    rows = [{"execution": uuid, "text": text.encode("utf-8", "replace")} for uuid, text in texts.items() if text]
    if rows:
        _KEEP.run(transaction, rows)


def log(transaction: Transaction, uuid: str) -> str:
    """The kept log, "" if there is none."""
    kept = transaction.execute(select(logs.c.text).where(logs.c.execution == uuid)).scalar_one_or_none()
    return "" if kept is None else bytes(kept).decode()


def note(transaction: Transaction, happened: Sequence[Event]) -> None:
    """Add to the event log."""
    if happened:
        _NOTE.run(transaction, [{name: getattr(event, name) for name in Event.__slots__} for event in happened])


def history(transaction: Transaction, uuid: str) -> tuple[Event, ...]:
    """What happened to an execution, in order."""
    columns = events.c
    rows = transaction.execute(select(events).where(columns.execution == uuid).order_by(columns.seq))
    return tuple(
        Event(execution=row.execution, at=row.at, attempt=row.attempt, what=row.what, detail=row.detail) for row in rows
    )


def lost_on(transaction: Transaction, uuids: Sequence[str]) -> dict[str, str]:
    """The spot whose attempt was the last one and came to nothing, of each of these where that is known."""
    columns, spots, found = events.c, dict[str, str](), dict[str, str]()
    wanted = columns.execution.in_(uuids), columns.what.in_(("started", "failed", "lost"))
    rows = transaction.execute(
        select(columns.execution, columns.what, columns.detail).where(*wanted).order_by(columns.seq)
    )
    for row in rows:
        found.pop(row.execution, None)
        if row.what == "started":
            spots[row.execution] = row.detail or ""
        elif row.what == "lost" and (spot := spots.pop(row.execution, "")):
            found[row.execution] = spot
    return found
