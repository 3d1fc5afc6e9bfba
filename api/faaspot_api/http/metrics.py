"""What Prometheus reads, what is timed of the answers themselves, and by which trace their log lines go."""

from __future__ import annotations

import time

import structlog
from flask import Flask, Request, Response, g, request

from faaspot_api import metrics
from faaspot_api.domain import traces
from faaspot_api.http.routes import Call, Routes

routes = Routes("metrics")

NOWHERE = "(none)"
"""The route of a request to an address that there is not."""


@routes.route("GET", "/metrics", str, errors=(404,), media="text/plain", bare=True)
def read_metrics(call: Call) -> Response:
    """Counts, timings and the present state in Prometheus' text format."""
    return Response(call.services.figures.text(call.who), content_type=metrics.CONTENT_TYPE)


def register(app: Flask, counted: metrics.Metrics) -> None:
    """Time every answer of `app`; what is logged on the way has the trace of its caller."""

    @app.before_request
    def begin() -> None:
        g.began = time.monotonic()
        follow(request)

    @app.after_request
    def answered(response: Response) -> Response:
        seconds = time.monotonic() - g.get("began", time.monotonic())
        counted.answered(_method(), request.endpoint or NOWHERE, response.status_code, seconds)
        return response


def follow(request: Request) -> None:
    """Have what this thread logs from now on go by the trace of this request's caller."""
    structlog.contextvars.clear_contextvars()  # the thread has served others
    if (trace := traces.parse(request.headers.get(traces.HEADER))) is not None:
        structlog.contextvars.bind_contextvars(trace_id=traces.trace_id(trace))


def _method() -> str:
    return request.method if request.method in ("GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS") else "other"
