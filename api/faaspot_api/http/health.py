"""Health: what is open without a token, and the examination for those who watch over the platform."""

from __future__ import annotations

from dataclasses import asdict

from flask import Response

from faaspot_api.errors import Unavailable
from faaspot_api.http import answers, schemas
from faaspot_api.http.routes import Call, Routes

routes = Routes("health")


@routes.route("GET", "/healthz", schemas.Health, open=True)
def healthz(call: Call) -> Response:
    """The process answers."""
    return answers.value({"status": "ok"})


@routes.route("GET", "/readyz", schemas.Ready, open=True)
def readyz(call: Call) -> Response:
    """Everything that a run needs is there."""
    parts = call.services.health.ready()
    missing = sorted(part for part, state in parts.items() if state != "ok")
    if missing:
        raise Unavailable(f"Not ready: {', '.join(missing)}.", retry_after=1, extra={"parts": parts})
    return answers.value({"status": "ok", "parts": parts})


@routes.route("GET", "/doctor", schemas.Examination)
def examine(call: Call) -> Response:
    """Every part of the running platform looked at, and what to do where it is not well."""
    found = call.services.doctor.examine(call.who)
    return answers.value({**asdict(found), "ok": found.ok})
