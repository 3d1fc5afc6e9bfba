"""Who asks: one check before every request, known address or not, unless the address is declared open.

Deny by default: a new route is closed until it says otherwise, and an unknown one answers 401 without a token, so that
nobody can tell the two apart.
"""

from __future__ import annotations

import hmac

from flask import Flask, g, request

from faaspot_api.domain.model import Principal
from faaspot_api.errors import Unauthorized
from faaspot_api.http import wire
from faaspot_api.services import TokenService


def register(app: Flask, tokens: TokenService, open_endpoints: frozenset[str]) -> None:
    """Put the guard before every request of `app`."""

    @app.before_request
    def guard() -> None:
        if request.endpoint not in open_endpoints:
            g.who = identify(tokens, request.headers.get("Authorization", ""))


def identify(tokens: TokenService, header: str) -> Principal:
    """The owner of the token in an Authorization header. Raises Unauthorized, the same whatever is wrong."""
    found = wire.credentials(header)
    if found is None:
        raise Unauthorized
    user, token = found
    who = tokens.authenticate(token)
    if user is not None and not hmac.compare_digest(user.encode(), who.name.encode()):
        raise Unauthorized
    return who
