"""Callbacks: who is told of an execution's end, what came of it, and the secret that signs it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from flask import Response
from pydantic import BaseModel, ConfigDict, Field

from faaspot_api.domain import model
from faaspot_api.domain.records import time
from faaspot_api.http import answers, schemas
from faaspot_api.http.routes import Call, Routes

routes = Routes("callbacks")


class CallbackTry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    at: schemas.Time
    status: int | None = Field(description="Of the answer, null if there was none.")
    error: str | None = Field(description="Why it did not count.")
    ms: int


class Callback(BaseModel):
    """Who is told of an execution's end, and what came of it."""

    model_config = ConfigDict(extra="forbid")

    origin: str = Field(description="Where, without the path.")
    status: Literal["waiting", "pending", "delivered", "failed"]
    next: schemas.Time | None = Field(description="When it is told.")
    tries: list[CallbackTry]


class CallbackSecret(BaseModel):
    secret: str = Field(description="`whsec_...`, as Standard Webhooks has it; the same each time.")


@routes.route("GET", "/executions/<uuid>/callbacks", Callback, errors=(404,))
def get_callback(call: Call, uuid: str) -> Response:
    """Who is told of an execution's end, and what came of each try."""
    return answers.value(_shown(call.services.callbacks.of(call.who, uuid)))


@routes.route("GET", "/tokens/callback-secret", CallbackSecret)
def get_callback_secret(call: Call) -> Response:
    """The secret with which what this token's callbacks tell is signed; any role, its own."""
    return answers.value({"secret": call.services.callbacks.secret(call.who)})


def _shown(callback: model.Callback) -> dict[str, Any]:
    """Who is told of an end, and what came of it."""
    tries = [{**asdict(each), "at": time(each.at)} for each in callback.tries]
    return {**asdict(callback), "next": time(callback.next), "tries": tries}
