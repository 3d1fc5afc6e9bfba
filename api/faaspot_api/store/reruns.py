"""Which execution is another one's second go."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import ColumnElement, exists, insert

from faaspot_api.store.engine import Transaction, hold
from faaspot_api.store.tables import executions, reruns

RERUNS = 0x6661_6174
"""The number under which whoever runs many again is alone."""


def alone(transaction: Transaction) -> None:
    """Nobody else runs many again until this transaction ends, so none is taken twice."""
    hold(transaction, RERUNS)


def add(transaction: Transaction, pairs: Mapping[str, str]) -> None:
    """New execution -> the one whose args it has."""
    if pairs:
        transaction.execute(insert(reruns), [{"execution": new, "of": old} for new, old in pairs.items()])


def was_rerun() -> ColumnElement[bool]:
    """The condition on an execution that it was run again."""
    return exists().where(reruns.c.of == executions.c.uuid)
