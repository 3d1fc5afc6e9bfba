"""Callbacks: who is told of an execution's end, as people see it, and the secret that signs what they are told."""

from __future__ import annotations

import base64
from secrets import token_bytes

from faaspot_api.domain import callbacks as rules
from faaspot_api.domain.model import Callback, CallbackTry, Principal
from faaspot_api.domain.names import is_execution_id
from faaspot_api.errors import NotFound
from faaspot_api.services import access
from faaspot_api.store import callbacks, executions, options
from faaspot_api.store.engine import Store
from faaspot_api.store.moments import from_micros, maybe

MASTER = "callback-key"
"""The name of the option that holds the key, base64."""


class CallbackSecrets:
    """Each token's secret, made from one key in the database: every part that signs reads it, and no spot can."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._master = b""

    def of(self, owner: str) -> str:
        """What the receivers of this token's callbacks check signatures with. Raises Unavailable."""
        if not self._master:
            self._master = base64.b64decode(self._kept() or self._make())
        return rules.secret(self._master, owner)

    def _kept(self) -> str | None:
        with self._store.read() as transaction:
            text: str | None = options.read(transaction, MASTER)
        return text

    def _make(self) -> str:
        """Make the key, unless somebody else just did."""
        with self._store.write() as transaction:
            options.alone(transaction)
            text: str | None = options.read(transaction, MASTER)
            if text is None:
                text = base64.b64encode(token_bytes(32)).decode()
                options.write(transaction, MASTER, text)
        return text


class CallbackService:
    """What people do with callbacks."""

    def __init__(self, store: Store, secrets: CallbackSecrets) -> None:
        self._store = store
        self._secrets = secrets

    def secret(self, who: Principal) -> str:
        """What this token's receivers check signatures with; the same each time."""
        return self._secrets.of(who.name)

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
