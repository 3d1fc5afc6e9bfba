"""Thousands of values in one statement: as one parameter, so that the statement stays the same."""

from __future__ import annotations

import json
from collections.abc import Iterable

from sqlalchemy import ARRAY, Column, ColumnElement, String, bindparam, func, select

from faaspot_api.store.engine import Transaction


def is_one_of(transaction: Transaction, column: Column[str], values: Iterable[str]) -> ColumnElement[bool]:
    """The condition that a column of text is one of these; looked up one by one in the column's index."""
    listed = list(values)
    if transaction.dialect.name == "postgresql":
        return column == func.any(bindparam("listed", listed, type_=ARRAY(String)))
    each = func.json_each(bindparam("listed", json.dumps(listed))).table_valued("value")
    return column.in_(select(each.c.value))
