"""The tokens: name, role and the hash of the text. The text itself is kept nowhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, bindparam, delete, insert, select
from sqlalchemy.exc import IntegrityError

from faaspot_api.domain.model import Token
from faaspot_api.errors import Conflict
from faaspot_api.store.engine import Transaction
from faaspot_api.store.moments import from_micros, to_micros
from faaspot_api.store.prepared import Prepared
from faaspot_api.store.tables import tokens

T = tokens.c


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedToken:
    """A token and the hexadecimal SHA-256 of its text."""

    token: Token
    hash: str


def add(transaction: Transaction, row: HashedToken) -> None:
    """Insert a token. Raises Conflict (`exists`) if the name is taken."""
    values = {
        "name": row.token.name,
        "role": row.token.role,
        "spots": json.dumps(row.token.spots),
        "hash": row.hash,
        "created": to_micros(row.token.created),
    }
    try:
        transaction.execute(insert(tokens), values)
    except IntegrityError as error:
        raise Conflict(f"A token named {row.token.name} exists; revoke it first.", code="exists") from error


_BY_HASH = Prepared(select(T.name, T.role, T.spots, T.created, T.hash).where(T.hash == bindparam("wanted")))


def by_hash(transaction: Transaction, text_hash: str) -> HashedToken | None:
    """The token whose text has this hash."""
    row = _BY_HASH.one(transaction, {"wanted": text_hash})
    if row is None:
        return None
    name, role, spots, created, found = row
    token = Token(name=name, role=role, spots=tuple(json.loads(spots)), created=from_micros(created))
    return HashedToken(token=token, hash=found)


def by_name(transaction: Transaction, name: str) -> HashedToken | None:
    """The token of that name."""
    row = transaction.execute(select(tokens).where(T.name == name)).one_or_none()
    return None if row is None else HashedToken(token=_token(row), hash=row.hash)


def listed(transaction: Transaction) -> tuple[Token, ...]:
    """Every token, by name."""
    return tuple(_token(row) for row in transaction.execute(select(tokens).order_by(T.name)))


def remove(transaction: Transaction, name: str) -> bool:
    """Forget a token. False: there was none."""
    return transaction.execute(delete(tokens).where(T.name == name)).rowcount > 0


def _token(row: Row[*tuple[Any, ...]]) -> Token:
    return Token(name=row.name, role=row.role, spots=tuple(json.loads(row.spots)), created=from_micros(row.created))
