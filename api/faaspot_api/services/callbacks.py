"""Callbacks: who is told of an execution's end, as people see it, and the secret that signs what they are told."""

from __future__ import annotations

from faaspot_api.domain import callbacks as rules
from faaspot_api.domain.model import Callback, CallbackTry, Principal
from faaspot_api.domain.names import is_execution_id
from faaspot_api.errors import NotFound
from faaspot_api.services import access
from faaspot_api.store import callbacks, executions
from faaspot_api.store.engine import Store
from faaspot_api.store.moments import from_micros, maybe


class CallbackService:
    """What people do with callbacks. `master`: the key from which each token's secret is made."""

    def __init__(self, store: Store, master: bytes) -> None:
        self._store = store
        self._master = master

    def secret(self, who: Principal) -> str:
        """What this token's receivers check signatures with; the same each time."""
        return rules.secret(self._master, who.name)

    def of(self, who: Principal, uuid: str) -> Callback:
        """Who is told of the execution's end, and every try. Raises NotFound, also for one that nobody is told of."""
        with self._store.read() as transaction:
            scope = access.executions(who)
            if not is_execution_id(uuid) or executions.get(transaction, uuid, scope) is None:
                raise access.unknown_execution(uuid)
            row = callbacks.find(transaction, uuid)
            tries = callbacks.tries(transaction, uuid)
        if row is None:
            raise NotFound(f"Nobody is told of the end of {uuid}: it has no callback URL.", execution_id=uuid)
        return Callback(
            origin=rules.origin(row.url),
            status="waiting" if row.status == "pending" and row.due is None else row.status,
            next=maybe(row.due),
            tries=tuple(
                CallbackTry(at=from_micros(each.at), status=each.status, error=each.error, ms=each.ms) for each in tries
            ),
        )
