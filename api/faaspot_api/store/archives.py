"""Packed environments and large outputs that spots on other hosts have brought: which spot each, so that none fills the
disk.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import delete, func, insert, or_, select, update

from faaspot_api.store.engine import Transaction
from faaspot_api.store.tables import archives, executions, versions

A = archives.c


def total(transaction: Transaction, spot: str) -> int:
    """Bytes of all that this spot has brought and that are kept."""
    return int(transaction.execute(select(func.coalesce(func.sum(A.size), 0)).where(A.spot == spot)).scalar_one())


def has(transaction: Transaction, digest: str) -> bool:
    """Whether it was brought already, by any spot."""
    return transaction.execute(select(A.digest).where(A.digest == digest)).one_or_none() is not None


def touch(transaction: Transaction, digest: str, at: int) -> None:
    """It was brought once more. `at`: microseconds."""
    transaction.execute(update(archives).where(A.digest == digest).values(brought=at))


def add(transaction: Transaction, digest: str, spot: str, size: int, at: int) -> None:
    """A spot brings it, from now on. `size`: bytes; `at`: microseconds."""
    transaction.execute(insert(archives), {"digest": digest, "spot": spot, "size": size, "brought": at})


def forget(transaction: Transaction, digests: Iterable[str]) -> None:
    """They are not kept any more."""
    transaction.execute(delete(archives).where(A.digest.in_(tuple(digests))))


def unclaimed(transaction: Transaction, before: int) -> tuple[str, ...]:
    """Those brought before this moment to which no version and no record came that has them."""
    packed = select(versions.c.archive).where(versions.c.archive == A.digest).exists()
    large = (executions.c.output_blob, executions.c.args_blob)
    kept = [select(column).where(column == A.digest).exists() for column in large]
    needed = or_(packed, *kept)
    rows = transaction.execute(select(A.digest).where(A.brought < before, ~needed).order_by(A.digest))
    return tuple(row.digest for row in rows)
