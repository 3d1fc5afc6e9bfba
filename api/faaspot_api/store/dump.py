"""The whole database as lines of JSON, and back: the same text from SQLite and PostgreSQL, and for either.

The tables are read as they are found, and written into the tables of the revision that they were read at; then the
migrations bring them to this release. So a backup outlives the release and the database that it was made on.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, LargeBinary, MetaData, Table, func, insert, inspect, select, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from faaspot_api.store import migrate, tables
from faaspot_api.store.engine import BadDatabaseError, Store, Transaction

ROWS = 200
"""Rows in memory at a time: an execution may hold two values of 8 MB."""
NOT_OURS = "alembic_version"
_UNFIT = (SQLAlchemyError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What rows raise that none of our databases has written."""


def revision(transaction: Transaction) -> str:
    """The revision of the tables. Raises BadDatabaseError if there are none of ours."""
    found = migrate.revision(transaction)
    if found is None:
        raise BadDatabaseError("the database is empty: there is nothing to keep")
    return found


def lines(transaction: Transaction) -> Iterator[tuple[str, Iterator[str]]]:
    """Each table's name and its rows, in an order in which they can be inserted again."""
    for table in _tables(transaction):
        yield table.name, _lines(transaction, table)


def needed_blobs(transaction: Transaction) -> tuple[str, ...]:
    """The digests of all blobs that deployments need, without those that are deleted."""
    columns = tables.versions.c.code, tables.versions.c.context, tables.versions.c.lock
    joined = tables.versions.join(tables.deployments, tables.versions.c.deployment_id == tables.deployments.c.id)
    living = select(*columns).select_from(joined).where(tables.deployments.c.deleted.is_(None))
    return tuple(sorted({digest for row in transaction.execute(living) for digest in row if digest}))


def large_values(transaction: Transaction) -> int:
    """How many large args and outputs the records refer to."""
    columns = tables.executions.c.args_blob, tables.executions.c.output_blob
    return sum(transaction.execute(select(func.count(each))).scalar_one() for each in columns)


@contextmanager
def filling(store: Store, wanted: str) -> Iterator[Filling]:
    """Fill an empty database with rows of the revision `wanted`, all or nothing; then it is brought to this release.

    Raises BadDatabaseError if it is not empty, or `wanted` is of a newer release.
    """
    with store.write() as transaction:
        if inspect(transaction).get_table_names():
            raise BadDatabaseError("the database is not empty: give one that is")
        migrate.upgrade(transaction, wanted)
        filling = Filling(transaction)
        yield filling
        filling.number_on()
        migrate.upgrade(transaction, "head")


class Filling:
    """A database that is being filled."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._tables = {table.name: table for table in _tables(transaction)}

    def add(self, name: str, rows: Iterable[str]) -> int:
        """Insert these lines into a table; how many. Raises BadDatabaseError for what there is no place for."""
        table = self._tables.get(name)
        if table is None:
            raise BadDatabaseError(f"the backup has a table {name!r}, which no release of its revision has")
        try:
            values = [_row(table, json.loads(line)) for line in rows]
            if values:
                self._transaction.execute(insert(table), values)
        except OperationalError:
            raise
        except _UNFIT as error:  # whose own text may show what a row holds
            raise BadDatabaseError(f"the backup is damaged: it has rows of {name} that do not fit") from error
        return len(values)

    def number_on(self) -> None:
        """Have PostgreSQL number new rows after the inserted ones; SQLite does so by itself."""
        if self._transaction.dialect.name != "postgresql":
            return
        for table in self._tables.values():
            if "seq" in table.c:
                newest = self._transaction.execute(select(func.max(table.c.seq))).scalar_one()
                statement = text("SELECT setval(pg_get_serial_sequence(:name, 'seq'), :newest, :used)")
                values = {"name": table.name, "newest": newest or 1, "used": newest is not None}
                self._transaction.execute(statement, values)


def _tables(connection: Connection) -> list[Table]:
    found = MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != NOT_OURS]


def _lines(transaction: Transaction, table: Table) -> Iterator[str]:
    key = list(table.primary_key.columns)
    rows = transaction.execute(select(table).order_by(*key), execution_options={"yield_per": ROWS})
    for row in rows:
        yield json.dumps({name: _plain(value) for name, value in row._mapping.items()}, ensure_ascii=False)


def _plain(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes | memoryview) else value


def _row(table: Table, said: dict[str, Any]) -> dict[str, Any]:
    return {
        name: base64.b64decode(value) if value is not None and isinstance(table.c[name].type, LargeBinary) else value
        for name, value in said.items()
    }
