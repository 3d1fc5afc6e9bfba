"""Who is to be told of an execution's end, and what came of telling.

A row is made with its execution. It has no `due` until that has ended, which is looked up rather than written with the
end: most executions have no row, and their ends pay nothing for those that have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from sqlalchemy import insert, select, update

from faaspot_api.store.engine import Transaction
from faaspot_api.store.tables import callback_tries, callbacks, executions

C = callbacks.c
T = callback_tries.c

State = Literal["pending", "delivered", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """`owner`: the token whose secret signs; `due`: microseconds, None before the end and once it is settled."""

    execution: str
    owner: str
    url: str
    host: str
    status: State = "pending"
    tries: int = 0
    due: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One try to tell. `status`: of the HTTP answer, None if there was none; then `error` says why."""

    execution: str
    at: int
    status: int | None
    error: str | None
    ms: int


_ROW = select(callbacks)


def add(transaction: Transaction, rows: Sequence[Callback]) -> None:
    """Keep whom to tell, in the transaction of the executions."""
    if rows:
        transaction.execute(insert(callbacks), [asdict(row) for row in rows])


def find(transaction: Transaction, execution: str) -> Callback | None:
    """Who is told of this one."""
    row = transaction.execute(_ROW.where(C.execution == execution)).one_or_none()
    return None if row is None else Callback(**row._mapping)


def ripen(transaction: Transaction, at: int, limit: int) -> int:
    """Make those due whose execution has ended; how many, at most `limit`."""
    joined = select(C.execution).join(executions, executions.c.uuid == C.execution)
    waits = joined.where(C.status == "pending", C.due.is_(None), executions.c.ended.is_not(None)).limit(limit)
    ended = list(transaction.execute(waits).scalars())
    if ended:
        transaction.execute(update(callbacks).where(C.execution.in_(ended)).values(due=at))
    return len(ended)


def waits(transaction: Transaction) -> bool:
    """Whether anybody is still to be told, now or one day."""
    return transaction.execute(select(C.execution).where(C.status == "pending").limit(1)).one_or_none() is not None


def due(
    transaction: Transaction, at: int, but_hosts: Iterable[str], but_owners: Iterable[str], limit: int
) -> list[Callback]:
    """Those that are to be told now, the longest due first, without these hosts and owners."""
    others = C.host.not_in(list(but_hosts)), C.owner.not_in(list(but_owners))
    statement = _ROW.where(C.status == "pending", C.due <= at, *others)
    return [Callback(**row._mapping) for row in transaction.execute(statement.order_by(C.due).limit(limit))]


def claim(transaction: Transaction, row: Callback, until: int) -> bool:
    """Have it to oneself until then; False if somebody else was first."""
    mine = update(callbacks).where(C.execution == row.execution, C.due == row.due, C.status == "pending")
    return transaction.execute(mine.values(due=until)).rowcount == 1


def settle(transaction: Transaction, row: Callback, told: Try, status: State, due: int | None) -> None:
    """Write what came of a try, and when the next one is due."""
    transaction.execute(insert(callback_tries), asdict(told))
    changed = {"status": status, "tries": row.tries + 1, "due": due}
    transaction.execute(update(callbacks).where(C.execution == row.execution).values(changed))


def tries(transaction: Transaction, execution: str) -> tuple[Try, ...]:
    """Every try, in order."""
    columns = [T[name] for name in Try.__slots__]
    rows = transaction.execute(select(*columns).where(T.execution == execution).order_by(T.seq))
    return tuple(Try(**row._mapping) for row in rows)
