"""The bodies of answers: JSON text out of records (see `domain.records` for that of an execution)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask import Response

from faaspot_api.domain.model import Deployment, Execution, Runtime, Spot, Token, Version
from faaspot_api.domain.records import text as record
from faaspot_api.domain.records import time
from faaspot_api.http import strict
from faaspot_api.services.executions import Text


def text(json: str, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer of JSON text.

    Half a surrogate pair, which only a function's error text could hold, becomes the JSON escape for it.
    """
    body = json.encode("utf-8", "backslashreplace")
    return Response(body, status, headers, content_type="application/json")


def value(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer of a value that JSON can hold."""
    return text(strict.dump(value), status=status, headers=headers)


def streamed(found: Text, *, headers: dict[str, str] | None = None) -> Response:
    """What a function was given or returned, piece by piece."""
    answer = Response(found.pieces, headers=headers, content_type="application/json")
    answer.content_length = found.size
    return answer


def records(executions: tuple[Execution, ...] | list[Execution]) -> str:
    """JSON text of a list of records."""
    return f"[{','.join(record(execution) for execution in executions)}]"


def version(version: Version) -> dict[str, Any]:
    """A version without its code and lock."""
    return {
        "version": version.number,
        "status": version.status,
        "reason": version.reason,
        "build": version.build,
        "environment": version.environment,
        "requirements": version.requirements,
        "context_keys": list(version.context_keys),
        "settings": asdict(version.settings),
        "created": time(version.created),
    }


def deployment(deployment: Deployment, runner_url: str) -> dict[str, Any]:
    """A deployment as lists show it; status, reason and build are the newest version's."""
    return {
        **version(deployment.version),
        "name": deployment.name,
        "owner": deployment.owner,
        "runner_url": runner_url,
        "status": deployment.status,
        "reason": deployment.reason,
        "build": deployment.build,
        "created": time(deployment.created),
        "updated": time(deployment.updated),
    }


def spot(spot: Spot) -> dict[str, Any]:
    """A worker host."""
    return {**asdict(spot), "created": time(spot.created), "last_seen": time(spot.last_seen)}


def runtime(runtime: Runtime) -> dict[str, Any]:
    """Where functions run."""
    return asdict(runtime)


def token(token: Token) -> dict[str, Any]:
    """A token without its text."""
    return {**asdict(token), "created": time(token.created)}
