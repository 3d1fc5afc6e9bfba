"""The HTTP face: one blueprint for each noun, over services that know nothing of HTTP."""

from __future__ import annotations

from flask import Flask, Response
from werkzeug.routing import BaseConverter

from faaspot_api.http import (
    blobs,
    callbacks,
    deployments,
    errors,
    executions,
    guard,
    health,
    metrics,
    openapi,
    reruns,
    runs,
    runtimes,
    spots,
    tokens,
    wire,
)
from faaspot_api.http.direct import Direct
from faaspot_api.http.waiters import Waiters
from faaspot_api.services import Services

NOUNS = (
    deployments.routes,
    runs.routes,
    executions.routes,
    reruns.routes,
    callbacks.routes,
    spots.routes,
    blobs.routes,
    runtimes.routes,
    tokens.routes,
    health.routes,
    metrics.routes,
)


class _Application(BaseConverter):
    """The application segment of faaspot 0.1.6's addresses."""

    regex = wire.APPLICATION
    part_isolating = True


class _Member(BaseConverter):
    """A name or id where one of our own words could stand."""

    regex = wire.MEMBER
    part_isolating = True


def register(app: Flask, services: Services, waiters: Waiters) -> None:
    """Put the whole API on `app`."""
    app.url_map.merge_slashes = False  # a `//` is an unknown address, not a redirect that loses method and body
    app.url_map.converters |= {"application": _Application, "member": _Member}
    errors.register(app)
    metrics.register(app, services.metrics)
    open_endpoints = frozenset({"openapi.openapi_json"}).union(*(noun.open_endpoints() for noun in NOUNS))
    if services.figures.is_open:
        open_endpoints |= {f"{metrics.routes.noun}.read_metrics"}
    guard.register(app, services.tokens, open_endpoints)
    for noun in NOUNS:
        app.register_blueprint(noun.blueprint(services, waiters))
    app.register_blueprint(openapi.blueprint(NOUNS))
    app.after_request(_safe_headers)
    app.wsgi_app = Direct(app.wsgi_app, services, waiters, _safe_headers)  # type: ignore[method-assign]


def _safe_headers(response: Response) -> Response:
    """What a browser must never do with an answer: guess its type, keep it, show it in a frame, run it."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"
    response.headers.setdefault("Cache-Control", "no-store")
    return response
