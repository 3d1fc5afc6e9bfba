"""Times as the store keeps them: whole microseconds since the epoch, UTC; sortable, exact, equal in every database."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICRO = timedelta(microseconds=1)
SECOND = 1_000_000


def now() -> int:
    """This moment by the machine's clock."""
    return time.time_ns() // 1000


def to_micros(moment: datetime) -> int:
    """A moment of a record (aware) as the store keeps it."""
    return (moment - _EPOCH) // MICRO


def from_micros(micros: int) -> datetime:
    """What the store keeps as an aware UTC datetime."""
    return _EPOCH + timedelta(microseconds=micros)


def maybe(micros: int | None) -> datetime | None:
    """The same for a time that may not have come yet."""
    return None if micros is None else from_micros(micros)
