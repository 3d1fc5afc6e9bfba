"""One shape for every error, whoever raised it: our services, the routing, or a defect of ours.

``application/problem+json`` (type, title, status, detail) and what the published clients read: `message`, `error_code`,
`execution_id` where there is one; `errors` names every bad field. Never an HTML page, never a traceback of ours.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import structlog
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from faaspot_api.errors import ApiError, TooLarge, Unauthorized
from faaspot_api.http import problem

_log = structlog.get_logger(__name__)

_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
_MESSAGES = {
    404: "There is nothing at this address. GET /openapi.json lists every address.",
    405: "This address does not take the method {method}; it takes {allowed}.",
}


def register(app: Flask) -> None:
    """Make `app` answer every error in the one shape."""
    app.register_error_handler(ApiError, of_ours)
    app.register_error_handler(HTTPException, _of_routing)
    app.register_error_handler(Exception, _defect)


def of_ours(error: ApiError) -> Response:
    """The answer for an error that a service or this package raised on purpose."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.execution_id is not None:
        headers["Execution-Id"] = error.execution_id
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Token realm="faaspot"'
    if isinstance(error, Unauthorized | TooLarge):
        # Its body may be unread and endless: nothing after it on this connection can be trusted to be a request.
        headers["Connection"] = "close"
    more: dict[str, Any] = {**error.extra}
    if error.execution_id is not None:
        more["execution_id"] = error.execution_id
    if error.errors:
        more["errors"] = [{key: said for key, said in asdict(bad).items() if said is not None} for bad in error.errors]
    if error.error is not None:
        more["error"] = error.error
    return _problem(error.status, error.code, error.message, more, headers)


def _of_routing(error: HTTPException) -> Response:
    status = error.code or 500
    headers = {}
    allowed = sorted(set(getattr(error, "valid_methods", None) or ()) - {"OPTIONS"})
    if allowed:
        headers["Allow"] = ", ".join(allowed)
    said = _MESSAGES.get(status, error.description or "")
    message = said.format(method=request.method[:20], allowed=", ".join(allowed)) if status in _MESSAGES else said
    code = _CODES.get(status, "invalid" if status < 500 else "internal")
    return _problem(status, code, message, {}, headers)


def _defect(error: Exception) -> Response:
    return defect(error, request.method, request.path)


def defect(error: Exception, method: str, path: str) -> Response:
    """The answer for an error that nobody foresaw; the log has all of it."""
    _log.error("internal error", method=method, path=path, exc_info=error)
    return _problem(500, "internal", "This is a defect of the platform; its log says more.", {}, {})


def _problem(status: int, code: str, message: str, more: dict[str, Any], headers: dict[str, str]) -> Response:
    return Response(problem.text(status, code, message, more), status, headers, content_type=problem.MEDIA)
