"""Statements that every run needs, compiled once and handed to the database's driver.

SQLAlchemy builds, compiles and checks each of its statements, and it still does so here, once for each dialect. To
go through the whole of it for each execution takes five times as long as the database takes to answer.

What goes in and comes out is what the driver knows: a boolean may come back as 0 or 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler

from faaspot_api.store.engine import Transaction

Values = Mapping[str, Any]


class Prepared:
    """One statement. `columns`: of an INSERT or UPDATE, the names of what is written."""

    def __init__(self, statement: Any, columns: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._columns = columns
        self._texts: dict[str, tuple[str, tuple[str, ...] | None]] = {}

    def one(self, transaction: Transaction, values: Values) -> tuple[Any, ...] | None:
        """The first row that it finds. Raises sqlalchemy.exc.DBAPIError."""
        cursor = transaction.connection.cursor()
        try:
            self._run(transaction, cursor.execute, self._fitted(transaction, values))
            row: tuple[Any, ...] | None = cursor.fetchone()
        finally:
            cursor.close()
        return row

    def run(self, transaction: Transaction, rows: Sequence[Values]) -> None:
        """Run it once for each. Raises sqlalchemy.exc.DBAPIError."""
        cursor = transaction.connection.cursor()
        try:
            if len(rows) == 1:
                self._run(transaction, cursor.execute, self._fitted(transaction, rows[0]))
            elif rows:
                self._run(transaction, cursor.executemany, [self._fitted(transaction, row) for row in rows])
        finally:
            cursor.close()

    def _run(self, transaction: Transaction, execute: Any, values: Any) -> None:
        dialect = transaction.dialect
        text, _ = self._text(dialect)
        errors: Any = dialect.loaded_dbapi
        try:
            execute(text, values)
        except errors.Error as error:
            raise DBAPIError.instance(text, None, error, errors.Error, dialect=dialect) from error

    def _fitted(self, transaction: Transaction, values: Values) -> Any:
        """The values as the driver wants them: by position, or by name."""
        _, order = self._text(transaction.dialect)
        return values if order is None else tuple(values[name] for name in order)

    def _text(self, dialect: Dialect) -> tuple[str, tuple[str, ...] | None]:
        known = self._texts.get(dialect.name)
        if known is None:
            keys = None if self._columns is None else list(self._columns)
            compiled: Any = self._statement.compile(dialect=dialect, column_keys=keys)
            assert isinstance(compiled, SQLCompiler)
            order = tuple(compiled.positiontup) if compiled.positiontup is not None else None
            known = self._texts[dialect.name] = str(compiled), order
        return known
