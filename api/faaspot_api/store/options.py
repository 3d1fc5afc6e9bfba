"""Small values that the platform remembers, JSON by name."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from faaspot_api.store.engine import Transaction, hold
from faaspot_api.store.tables import options

OPTIONS = 0x6661_6175
"""The number under which whoever makes an option that must not be made twice is alone."""


def alone(transaction: Transaction) -> None:
    """Nobody else makes an option until this transaction ends."""
    hold(transaction, OPTIONS)


def read(transaction: Transaction, name: str) -> Any:
    """What was written under `name`, None if nothing was."""
    value = transaction.execute(select(options.c.value).where(options.c.name == name)).scalar_one_or_none()
    return None if value is None else json.loads(value)


def write(transaction: Transaction, name: str, value: Any) -> None:
    """Remember a JSON value in place of the old one, whoever else does so at the same time."""
    text = json.dumps(value)
    insert = postgresql.insert if transaction.dialect.name == "postgresql" else sqlite.insert
    statement = insert(options).values(name=name, value=text)
    transaction.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": text}))
