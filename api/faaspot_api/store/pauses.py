"""Executions whose next attempt is not to start before a moment."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import delete, insert, select

from faaspot_api.store.engine import Transaction
from faaspot_api.store.tables import pauses

P = pauses.c


def add(transaction: Transaction, untils: Mapping[str, int]) -> None:
    """Have these wait until then: microseconds by execution."""
    if untils:
        transaction.execute(delete(pauses).where(P.execution.in_(list(untils))))
        transaction.execute(insert(pauses), [{"execution": uuid, "until": until} for uuid, until in untils.items()])


def every(transaction: Transaction) -> dict[str, int]:
    """All that wait, and until when."""
    return {row.execution: row.until for row in transaction.execute(select(pauses))}


def end(transaction: Transaction, until: int) -> None:
    """Forget those that are over at this moment."""
    transaction.execute(delete(pauses).where(P.until <= until))
