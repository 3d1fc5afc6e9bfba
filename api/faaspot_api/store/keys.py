"""Idempotency keys: what each token has asked for under a key of its own, and what it got."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, insert, select

from faaspot_api.store.engine import Transaction, hold
from faaspot_api.store.tables import idempotency

K = idempotency.c


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptKey:
    """`digest`: of the request; `executions`: the ids that were answered."""

    digest: str
    executions: tuple[str, ...]


def alone(transaction: Transaction, owner: str, key: str) -> None:
    """Nobody else asks under this key until the transaction ends."""
    said = hashlib.sha256(json.dumps([owner, key]).encode()).digest()
    hold(transaction, int.from_bytes(said[:8], "big", signed=True))


def find(transaction: Transaction, owner: str, key: str) -> KeptKey | None:
    """What is kept under a key."""
    found = transaction.execute(select(idempotency).where(K.owner == owner, K.key == key)).one_or_none()
    return None if found is None else KeptKey(digest=found.digest, executions=tuple(json.loads(found.executions)))


def add(transaction: Transaction, owner: str, key: str, digest: str, executions: Sequence[str], at: int) -> None:
    """Keep a new one. `at`: microseconds."""
    row = {"owner": owner, "key": key, "digest": digest, "executions": json.dumps(list(executions)), "created": at}
    transaction.execute(insert(idempotency), row)


def forget(transaction: Transaction, before: int) -> None:
    """Forget those that were made before this moment."""
    transaction.execute(delete(idempotency).where(K.created < before))
