"""The bodies of answers: JSON text out of records, without ever decoding a function's own values.

`output` and `args` of a record are JSON texts already; they are set into the record's text as they are.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from flask import Response

from faaspot_api.domain.model import Deployment, Execution, Runtime, Spot, Token, Version
from faaspot_api.http import strict
from faaspot_runner.contract import Timings, Usage

NO_TIMINGS = {field.name: None for field in fields(Timings)}
NO_USAGE = {field.name: None for field in fields(Usage)}
"""What was not measured is null: a record has the same keys whatever became of it."""


def text(json: str, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer of JSON text.

    Half a surrogate pair, which only a function's error text could hold, becomes the JSON escape for it.
    """
    body = json.encode("utf-8", "backslashreplace")
    return Response(body, status, headers, content_type="application/json")


def value(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer of a value that JSON can hold."""
    return text(strict.dump(value), status=status, headers=headers)


def time(moment: datetime | None) -> str | None:
    """W23: ``2017-07-21 15:10:52.537686+00:00``."""
    return None if moment is None else moment.isoformat(sep=" ", timespec="microseconds")


def record(execution: Execution) -> str:
    """JSON text of the one record of an execution."""
    known = {
        "uuid": execution.uuid,
        "name": execution.name,
        "deployment": execution.deployment,
        "version": execution.version,
        "kind": execution.kind,
        "status": execution.status,
        "reason": execution.reason,
        "error": execution.error,
        "created": time(execution.created),
        "started": time(execution.started),
        "ended": time(execution.ended),
        "spot": execution.spot,
        "attempt": execution.attempt,
        "timings": NO_TIMINGS | execution.timings,
        "usage": NO_USAGE | execution.usage,
        "logs_truncated": execution.logs_truncated,
        "traceparent": execution.traceparent,
    }
    return f'{strict.dump(known)[:-1]},"output":{execution.output or "null"},"args":{execution.args or "null"}}}'


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
