"""What people want of spots, and which are on other hosts. How they stand is only with the spots."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import delete, insert, select

from faaspot_api.store.engine import Transaction, hold
from faaspot_api.store.tables import spots

S = spots.c
CHANGES = 0x6661_6176
"""The number under which whoever changes spots is alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotRow:
    """What is wanted of the spot at `ip`, or of every one that has no numbers of its own (`contract.spots.EVERY`).

    `joined`: it is on another host; `leaving`: it shall end.
    """

    ip: str
    joined: bool = False
    draining: bool = False
    leaving: bool = False
    least: int | None = None
    most: int | None = None


def alone(transaction: Transaction) -> None:
    """Nobody else changes what is wanted of spots until this transaction ends."""
    hold(transaction, CHANGES)


def every(transaction: Transaction) -> tuple[SpotRow, ...]:
    """All of them, by address."""
    return tuple(SpotRow(**row._mapping) for row in transaction.execute(select(spots).order_by(S.ip)))


def by_ip(transaction: Transaction, ip: str) -> SpotRow | None:
    """What is wanted of one; None if nothing was ever said."""
    row = transaction.execute(select(spots).where(S.ip == ip)).one_or_none()
    return None if row is None else SpotRow(**row._mapping)


def save(transaction: Transaction, row: SpotRow) -> None:
    """Write it in place of what was said before. Call `alone` first."""
    transaction.execute(delete(spots).where(S.ip == row.ip))
    transaction.execute(insert(spots), asdict(row))


def remove(transaction: Transaction, ip: str) -> None:
    """Forget what was wanted of it."""
    transaction.execute(delete(spots).where(S.ip == ip))
