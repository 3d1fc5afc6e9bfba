"""The OpenAPI 3.1 document, from the same declarations and models that route and validate.

Only the canonical addresses stand in it: /v1, `deployments`, `spots`. The other spellings are for the published clients
and listed in `wire.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from flask import Blueprint, Response
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from faaspot_api.http import answers, problem, schemas, wire
from faaspot_api.http.routes import Route, Routes

ALWAYS = (400, 401, 403, 500, 503)
"""Errors that any closed operation may answer."""
DESCRIPTIONS = {
    200: "Done.",
    202: "Goes on in the background.",
    400: "The request cannot be taken as it is; `errors` names each bad field.",
    401: "A valid token is required.",
    403: "The token's role may not do this.",
    404: "Unknown, or not yours.",
    409: "The present state does not allow it.",
    413: "Too large.",
    422: "The Idempotency-Key was used for another request.",
    429: "Too much at once; see Retry-After.",
    500: "The function failed (`error_code` is the reason), or `internal`: a defect.",
    503: "Something is away for now; see Retry-After.",
    504: "The function's deadline, or the caller's wait, passed.",
}
_PARAMETER = re.compile(r"<(?:[^<>:]+(?:\([^)]*\))?:)?(\w+)>")
_PARAMETERS = {
    "name": {"type": "string", "pattern": schemas.NAME},
    "uuid": {"type": "string", "pattern": schemas.UUID},
    "ip": {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
    "digest": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "number": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
}


def blueprint(nouns: Iterable[Routes]) -> Blueprint:
    """Serves the document, made once."""
    document = answers.value(describe(nouns))
    body, openapi = document.get_data(), Blueprint("openapi", __name__)

    @openapi.get("/openapi.json", strict_slashes=False, provide_automatic_options=False)
    def openapi_json() -> Response:
        return Response(body, content_type="application/json", headers={"Cache-Control": "no-cache"})

    return openapi


def describe(nouns: Iterable[Routes]) -> dict[str, Any]:
    """The whole document."""
    schemas_of = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for noun in nouns:
        for route in noun.routes:
            for method in route.methods:
                operation = _operation(noun.noun, route, method, schemas_of)
                paths.setdefault(_template(route), {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "faaspot",
            "version": version("faaspot"),
            "description": "A self-hosted function platform for Python.",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas_of.definitions(),
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`Token <token>` or `Bearer <token>`",
                }
            },
        },
    }


def _template(route: Route) -> str:
    address = route.path if route.open or route.bare else wire.PREFIXES[0] + route.path
    return _PARAMETER.sub(r"{\1}", address)


def _operation(noun: str, route: Route, method: str, schemas_of: _Schemas) -> dict[str, Any]:
    name = route.name if len(route.methods) == 1 else f"{route.name}_{method.lower()}"
    more = dict(route.document)
    parameters = [*_path_parameters(route), *_query_parameters(route, schemas_of), *more.pop("parameters", ())]
    operation: dict[str, Any] = {
        "operationId": name,
        "tags": [noun],
        "summary": route.summary,
        "responses": _responses(route, schemas_of),
        **more,
    }
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        schema = schemas_of.of(route.body, "validation")
        needed = any(field.is_required() for field in route.body.model_fields.values())
        operation["requestBody"] = {"required": needed, "content": {"application/json": {"schema": schema}}}
    if route.open:
        operation["security"] = []
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _PARAMETERS[name]}
        for name in _PARAMETER.findall(route.path)
    ]


def _query_parameters(route: Route, schemas_of: _Schemas) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    properties = route.query.model_json_schema(mode="validation").get("properties", {})
    return [
        {"name": name, "in": "query", "schema": {key: said for key, said in schema.items() if key != "title"}}
        for name, schema in properties.items()
    ]


def _responses(route: Route, schemas_of: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, kind in route.answers.items():
        content = {route.media: {"schema": schemas_of.of(kind, "serialization")}}
        responses[str(status)] = {"description": DESCRIPTIONS[status], "content": content}
    failure = {problem.MEDIA: {"schema": schemas_of.of(schemas.Problem, "serialization")}}
    for status in sorted({*((400, 500, 503) if route.open else ALWAYS), *route.errors}):
        responses[str(status)] = {"description": DESCRIPTIONS[status], "content": failure}
    return responses


class _Plain(GenerateJsonSchema):
    """JSON Schema without the titles that pydantic makes up."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class _Schemas:
    """Schemas by type; the named ones go to the components and are referred to."""

    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}

    def of(self, kind: Any, mode: JsonSchemaMode) -> dict[str, Any]:
        """The schema of a type, a reference where it is a model."""
        schema = TypeAdapter(kind).json_schema(
            ref_template="#/components/schemas/{model}", mode=mode, schema_generator=_Plain
        )
        self._definitions.update(schema.pop("$defs", {}))
        title = schema.get("title")
        if title is None:
            return schema
        self._definitions[title] = schema
        return {"$ref": f"#/components/schemas/{title}"}

    def definitions(self) -> Mapping[str, Any]:
        """All components, by name."""
        return dict(sorted(self._definitions.items()))
