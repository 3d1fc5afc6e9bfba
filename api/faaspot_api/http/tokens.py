"""Tokens: who may ask. Admin only, which the service checks."""

from __future__ import annotations

from flask import Response

from faaspot_api.http import answers, schemas
from faaspot_api.http.routes import Call, Routes

routes = Routes("tokens")


@routes.route("GET", "/tokens/", list[schemas.Token])
def list_tokens(call: Call) -> Response:
    """All tokens, without their texts."""
    return answers.value([answers.token(token) for token in call.services.tokens.list(call.who)])


@routes.route("PUT", "/tokens/", schemas.NewToken, body=schemas.CreateToken, errors=(409,))
def create_token(call: Call, body: schemas.CreateToken) -> Response:
    """Make a token; its text is shown in this answer and never again."""
    token, text = call.services.tokens.create(call.who, body.name, body.role, tuple(body.spots or ()))
    return answers.value({**answers.token(token), "token": text})


@routes.route("DELETE", "/tokens/<name>", schemas.Revoked, errors=(404, 409))
def revoke_token(call: Call, name: str) -> Response:
    """Revoke a token at once."""
    call.services.tokens.revoke(call.who, name)
    return answers.value({"name": name})
