"""Tokens: made, shown once, checked by their hash."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from secrets import token_urlsafe

from faaspot_api.domain import names
from faaspot_api.domain.model import Principal, Role, Token
from faaspot_api.errors import Conflict, FieldError, Invalid, NotFound, Unauthorized
from faaspot_api.services import access
from faaspot_api.store import tokens
from faaspot_api.store.engine import Store
from faaspot_api.store.moments import from_micros, now
from faaspot_api.store.tokens import HashedToken

PREFIX = "fas_"
RANDOM_BYTES = 32
MAX_TEXT = 1000
FIRST = "admin"
"""The name of the token that a new platform begins with."""
ROLES: tuple[Role, ...] = ("admin", "deployer", "invoker", "monitor", "join")
"""Those that people give; a token of role `spot` is made when one joins."""


def new_text() -> str:
    """The text of a fresh token."""
    return PREFIX + token_urlsafe(RANDOM_BYTES)


class TokenService:
    """What people do with tokens, and who a caller is."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def authenticate(self, text: str) -> Principal:
        """Who has this token. Raises Unauthorized, the same whatever is wrong."""
        if not text or len(text) > MAX_TEXT:
            raise Unauthorized
        wanted = hashed(text)
        with self._store.read() as transaction:
            found = tokens.by_hash(transaction, wanted)
        if found is None or not hmac.compare_digest(found.hash, wanted):
            raise Unauthorized
        return Principal(name=found.token.name, role=found.token.role, spots=found.token.spots)

    def list(self, who: Principal) -> tuple[Token, ...]:
        """Every token, without its text."""
        access.require_admin(who)
        with self._store.read() as transaction:
            return tokens.listed(transaction)

    def create(self, who: Principal, name: str, role: Role, spots: Sequence[str] = ()) -> tuple[Token, str]:
        """A new token and its text, which is never shown again. Raises Invalid, Conflict (`exists`).

        `spots` must be empty: every spot takes every run, so a limit to some would be said and not kept.
        """
        access.require_admin(who)
        if (bad := names.name_error(name)) is not None:
            raise Invalid.fields(bad)
        if role not in ROLES:
            raise Invalid.fields(FieldError(field="role", message=f"must be one of {', '.join(ROLES)}"))
        if spots:
            message = "a token cannot be limited to some spots yet, every spot takes every run; leave it out"
            raise Invalid.fields(FieldError(field="spots", message=message))
        token = Token(name=name, role=role, spots=(), created=from_micros(now()))
        text = new_text()
        with self._store.write() as transaction:
            tokens.add(transaction, HashedToken(token=token, hash=hashed(text)))
        return token, text

    def revoke(self, who: Principal, name: str) -> None:
        """Forget a token; it is refused from now on. Raises NotFound, Conflict for the platform's own.

        That one comes back with every start: what looks revoked would not be. A new text replaces it.
        """
        access.require_admin(who)
        if name == FIRST:
            raise Conflict(f"The token {FIRST} is the platform's own. Start it with another: fas up --token NEW.")
        with self._store.write() as transaction:
            if not names.is_name(name) or not tokens.remove(transaction, name):
                raise NotFound(f"There is no token named {name[:100]}.")

    def first_token(self, text: str = "") -> str | None:
        """Make sure that there is a token `admin`, with this text if one is given; what a platform begins with.

        Returns its text; None if there is one already and no text was given: its own is known to nobody here.
        """
        with self._store.write() as transaction:
            found = tokens.by_name(transaction, FIRST)
            if found is not None and (not text or found.hash == hashed(text)):
                return text or None
            text = text or new_text()
            tokens.remove(transaction, FIRST)
            created = from_micros(now()) if found is None else found.token.created
            token = Token(name=FIRST, role="admin", spots=(), created=created)
            tokens.add(transaction, HashedToken(token=token, hash=hashed(text)))
        return text


def hashed(text: str) -> str:
    """What is kept of a token's text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
