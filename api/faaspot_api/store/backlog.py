"""How many executions are open: they have not ended."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from faaspot_api.store.engine import Transaction
from faaspot_api.store.tables import executions
from faaspot_runner.contract import Kind, Status

C = executions.c
_OPEN = C.ended.is_(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Open executions of one kind. `oldest`: microseconds."""

    kind: Kind
    queue: str
    status: Status
    open: int
    oldest: int


def waiting_runs(transaction: Transaction, owner: str, most: int) -> int:
    """How many runs that `owner` asked for have not started; counts no further than `most`."""
    # The sum keeps SQLite from going through all that the owner ever ran: few rows are open.
    asked = (C.owner + "") == owner
    found = select(C.seq).where(_OPEN, asked, C.kind == "run", C.status == "Pending").limit(most)
    count: int = transaction.execute(select(func.count()).select_from(found.subquery())).scalar_one()
    return count


def standing(transaction: Transaction) -> tuple[Backlog, ...]:
    """How many executions are open, by kind, queue and status."""
    groups = (C.kind, C.queue, C.status)
    statement = select(*groups, func.count().label("open"), func.min(C.created).label("oldest"))
    rows = transaction.execute(statement.where(_OPEN).group_by(*groups))
    return tuple(Backlog(**row._mapping) for row in rows)
