"""The way around Flask for the most frequent request: a sync run by POST.

Its view, its guard, its errors, its headers and its count are those of every other route; what is left out is the
routing, the contexts and the signals, which cost more than all of them. What does not look exactly like it goes to
Flask.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import Any

from flask import Request, Response

from faaspot_api.domain.names import is_name
from faaspot_api.errors import ApiError
from faaspot_api.http import errors, metrics, runs, wire
from faaspot_api.http.guard import identify
from faaspot_api.http.routes import Call
from faaspot_api.http.waiters import Waiters
from faaspot_api.services import Services

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]
_SYNC_RUN = re.compile(rf"(?:{'|'.join(wire.PREFIXES)})/sync/(?:deployments|functions)/([^/]+)/rpc/?")
_ROUTE = f"{runs.routes.noun}.{runs.run_sync.__name__}"


class Direct:
    """A WSGI application in front of Flask's. `finish`: puts on an answer what all answers have."""

    def __init__(self, app: Wsgi, services: Services, waiters: Waiters, finish: Callable[[Response], Response]) -> None:
        self._app = app
        self._services = services
        self._waiters = waiters
        self._finish = finish

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        found = _SYNC_RUN.fullmatch(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] == "POST" else None
        if found is None or not is_name(found[1]):
            return self._app(environ, start_response)
        began, request = time.monotonic(), Request(environ)
        metrics.follow(request)
        response = self._finish(self._answer(request, found[1]))
        self._services.metrics.answered("POST", _ROUTE, response.status_code, time.monotonic() - began)
        answer: Iterable[bytes] = response(environ, start_response)
        return answer

    def _answer(self, request: Request, name: str) -> Response:
        try:
            who = identify(self._services.tokens, request.headers.get("Authorization", ""))
            call = Call(services=self._services, waiters=self._waiters, who=who, request=request)
            return runs.run_sync(call, name)
        except ApiError as error:
            return errors.of_ours(error)
        except Exception as error:  # noqa: BLE001 (the outermost: it is logged, and answered in the one shape)
            return errors.defect(error, request.method, request.path)
