"""The runtimes that people defined, and what is wanted of each. How they stand is only with the spots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from faaspot_api.errors import Conflict
from faaspot_api.store import options
from faaspot_api.store.engine import Transaction, hold
from faaspot_api.store.moments import now
from faaspot_api.store.tables import runtimes
from faaspot_runner.contract.runtimes import RuntimeDefinition, Runtimes, RuntimeWanted, Wanted

R = runtimes.c
CHANGES = 0x6661_6174
"""The number under which whoever changes runtimes is alone."""
REVISION = "runtimes.revision"


def alone(transaction: Transaction) -> None:
    """Nobody else changes a runtime until this transaction ends."""
    hold(transaction, CHANGES)


def add(transaction: Transaction, definition: RuntimeDefinition, wanted: Wanted) -> None:
    """Insert a runtime. Raises Conflict (`exists`) if the name is taken."""
    values = {
        "name": definition.name,
        "type": definition.type,
        "config": json.dumps(dict(definition.config)),
        "wraps": definition.wraps,
        "lazy": definition.lazy,
        "external": definition.external,
        "wanted": wanted,
        "asked": _advance(transaction),
    }
    try:
        transaction.execute(insert(runtimes), values)
    except IntegrityError as error:
        raise exists(definition.name) from error


def exists(name: str) -> Conflict:
    """The refusal of a name that is taken."""
    return Conflict(f"A runtime named {name} exists; delete it first.", code="exists")


def want(transaction: Transaction, name: str, wanted: Wanted) -> None:
    """Say what shall become of a runtime."""
    transaction.execute(update(runtimes).where(R.name == name).values(wanted=wanted, asked=_advance(transaction)))


def remove(transaction: Transaction, name: str) -> None:
    """Forget a runtime."""
    transaction.execute(delete(runtimes).where(R.name == name))
    _advance(transaction)


def by_name_shared(transaction: Transaction, name: str) -> RuntimeWanted | None:
    """The runtime of that name; nobody deletes it before this transaction ends."""
    return _found(transaction.execute(select(runtimes).where(R.name == name).with_for_update(read=True)).one_or_none())


def by_name_alone(transaction: Transaction, name: str) -> RuntimeWanted | None:
    """The same, held for writing: whoever begins to use it is waited for."""
    return _found(transaction.execute(select(runtimes).where(R.name == name).with_for_update()).one_or_none())


def whole(transaction: Transaction) -> Runtimes:
    """All of them, by name, as the spots are told."""
    return Runtimes(revision=options.read(transaction, REVISION) or 0, wanted=tuple(_listed(transaction)))


def _listed(transaction: Transaction) -> Iterator[RuntimeWanted]:
    return (_wanted(row) for row in transaction.execute(select(runtimes).order_by(R.name)))


def _advance(transaction: Transaction) -> int:
    """The next revision: the time, so that a database made anew goes on after the one before."""
    revision: int = max(now(), (options.read(transaction, REVISION) or 0) + 1)
    options.write(transaction, REVISION, revision)
    return revision


def _found(row: Row[*tuple[Any, ...]] | None) -> RuntimeWanted | None:
    return None if row is None else _wanted(row)


def _wanted(row: Row[*tuple[Any, ...]]) -> RuntimeWanted:
    definition = RuntimeDefinition(
        name=row.name,
        type=row.type,
        config=json.loads(row.config),
        wraps=row.wraps,
        lazy=row.lazy,
        external=row.external,
    )
    return RuntimeWanted(definition=definition, wanted=row.wanted, asked=row.asked)
