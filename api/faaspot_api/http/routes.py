"""How a route is declared, so that routing, validation and the OpenAPI document come from one place.

A noun's file makes one `Routes` and decorates its views. A view is a plain function of the `Call` and the parameters of
its address (and the validated `body` or `query` where one is declared); it knows nothing of Flask's globals.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, Response, g, request
from flask import Request as HttpRequest
from werkzeug.exceptions import MethodNotAllowed

from faaspot_api.domain.model import Principal
from faaspot_api.domain.names import is_execution_id, is_name
from faaspot_api.errors import NotFound
from faaspot_api.http import reading, schemas, wire
from faaspot_api.http.waiters import Waiters
from faaspot_api.services import Services

View = Callable[..., Response]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, authorised: what a view works with."""

    services: Services
    waiters: Waiters
    who: Principal
    request: HttpRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation on one address. `answers`: status -> type of the body; `acts`: its GET does something.

    `open`: no token is needed; `bare`: it is served without a prefix, as open ones are.
    """

    methods: tuple[str, ...]
    path: str
    view: View
    summary: str
    body: type[schemas.Request] | None = None
    limit: int = reading.SMALL_BODY
    query: type[schemas.Request] | None = schemas.Empty
    answers: Mapping[int, Any] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    acts: bool = False
    open: bool = False
    bare: bool = False
    media: str = "application/json"
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the view is called: the endpoint and, in the document, the operation."""
        return self.view.__name__


class Routes:
    """The routes of one noun."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self.routes: list[Route] = []

    def route(self, method: str | tuple[str, ...], path: str, answers: Any, **more: Any) -> Callable[[View], View]:
        """Declare the decorated view. `answers`: the type of the 200 body, or status -> type."""

        def declare(view: View) -> View:
            self.routes.append(
                Route(
                    methods=(method,) if isinstance(method, str) else method,
                    path=path,
                    view=view,
                    summary=(view.__doc__ or "").strip().splitlines()[0],
                    answers=answers if isinstance(answers, Mapping) else {200: answers},
                    **more,
                )
            )
            return view

        return declare

    def blueprint(self, services: Services, waiters: Waiters) -> Blueprint:
        """All routes under all of their addresses."""
        blueprint = Blueprint(self.noun, __name__)
        for route in self.routes:
            serve = _server(route, services, waiters)
            for address in _addresses(route):
                blueprint.add_url_rule(
                    address,
                    route.name,
                    serve,
                    methods=route.methods,
                    strict_slashes=False,
                    provide_automatic_options=False,
                )
        return blueprint

    def open_endpoints(self) -> frozenset[str]:
        """Endpoints that need no token."""
        return frozenset(f"{self.noun}.{route.name}" for route in self.routes if route.open)


def _addresses(route: Route) -> list[str]:
    if route.open or route.bare:
        return [route.path]
    found = list(wire.addresses(route.path))
    if route.path.strip("/") in wire.ALIASES and not {"GET", "DELETE"} & set(route.methods):
        # The application's GET and DELETE fall together with an item's; the item's views tell them apart.
        found += wire.collection_of_application(route.path)
    return found


def _server(route: Route, services: Services, waiters: Waiters) -> Callable[..., Response]:
    def serve(**parameters: Any) -> Response:
        if route.acts and request.method == "HEAD":
            raise MethodNotAllowed(valid_methods=route.methods)  # a HEAD must be safe, and this GET does something
        parameters.pop("application", None)
        _refuse_impossible(parameters)
        if route.query is not None:
            query = reading.pairs(request.query_string) if request.query_string else {}
            checked = schemas.validated(route.query, query, typed=False)
            if route.query is not schemas.Empty:
                parameters["query"] = checked
        if route.body is not None:
            said = wire.fields(request, route.limit)
            parameters["body"] = schemas.validated(route.body, said.values, typed=said.typed)
        call = Call(services=services, waiters=waiters, who=g.get("who"), request=request)
        return route.view(call, **parameters)

    serve.__name__ = route.name
    return serve


def _refuse_impossible(parameters: Mapping[str, Any]) -> None:
    """A name, id or address that can belong to nothing is unknown (404), and no other layer has to look at it."""
    name = parameters.get("name")
    if name is not None and not is_name(name):
        raise NotFound("There is nothing of this name.")
    uuid = parameters.get("uuid")
    if uuid is not None and not is_execution_id(uuid):
        raise NotFound("There is no execution with this id.")


def is_address(text: str) -> bool:
    """Whether `text` is an IP address, as spots have them."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
