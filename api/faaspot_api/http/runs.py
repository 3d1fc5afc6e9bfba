"""Runs: in the background, awaited, many at once.

The hot path of the platform: args stay the text that they came as, the output stays the text that the function's
process made of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from flask import Response

from faaspot_api.domain.model import Args, Execution
from faaspot_api.errors import ApiError, Conflict, FieldError, Invalid, RunFailed, TimedOut, TooLarge, Unavailable
from faaspot_api.http import answers, gateway, reading, schemas, strict, wire
from faaspot_api.http.options import PARAMETERS, preferred_wait, run_options
from faaspot_api.http.routes import Call, Routes
from faaspot_runner.contract import MAX_ARGS_BYTES, LargeValue

routes = Routes("runs")

RETRY_AFTER = 5
_ASYNC = re.compile(r"(?:^|[,\s])respond-async\s*(?:$|[,;])", re.IGNORECASE)

RUN_ERRORS = (404, 409, 413, 422, 429, 504)
_ARGS = {"type": "object", "additionalProperties": True}
_IN_BODY = {"requestBody": {"required": False, "content": {"application/json": {"schema": _ARGS}}}}
_IN_QUERY = {
    "parameters": [
        {
            "name": "args",
            "in": "query",
            "style": "form",
            "explode": True,
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        *PARAMETERS,
    ]
}
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`wait=N`: answer with the result if it ends within N seconds; `respond-async`: answer 202 at once.",
    "schema": {"type": "string"},
}
_MANY = {
    "parameters": [*PARAMETERS],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "array", "items": _ARGS, "maxItems": schemas.MAX_BULK}}},
    },
}


@routes.route(
    "POST",
    "/deployments/<name>/rpc/",
    {200: Any, 202: schemas.Changed},
    query=None,
    errors=RUN_ERRORS,
    document={**_IN_BODY, "parameters": [_PREFER, *PARAMETERS]},
)
def run(call: Call, name: str) -> Response:
    """Run in the background; the answer is the execution's id, or with `Prefer: wait=N` the result."""
    return _run(call, name)


@routes.route(
    ("GET", "PUT"),
    "/deployments/<name>/rpc/",
    schemas.ExecutionId,
    query=None,
    acts=True,
    errors=RUN_ERRORS,
    document=_IN_QUERY,
)
def run_by_query(call: Call, name: str) -> Response:
    """Run in the background with the query as args, all of them text."""
    return _run(call, name)


@routes.route(
    "POST",
    "/sync/deployments/<name>/rpc/",
    Any,
    query=None,
    errors=RUN_ERRORS,
    document={**_IN_BODY, "parameters": [*PARAMETERS]},
)
def run_sync(call: Call, name: str) -> Response:
    """Run and wait; the answer is what `main` returned."""
    return _run_sync(call, name)


@routes.route(
    ("GET", "PUT"),
    "/sync/deployments/<name>/rpc/",
    Any,
    query=None,
    acts=True,
    errors=RUN_ERRORS,
    document=_IN_QUERY,
)
def run_sync_by_query(call: Call, name: str) -> Response:
    """Run and wait, with the query as args, all of them text."""
    return _run_sync(call, name)


@routes.route(
    "POST", "/deployments/<name>/bulk_rpc/", list[schemas.ExecutionId], errors=(404, 409, 413, 422, 429), document=_MANY
)
def run_bulk(call: Call, name: str) -> Response:
    """Run many times in the background; the answer is a list of ids in the order of the args."""
    items = wire.items(call.request, "values", reading.BULK_BODY)
    if len(items) > schemas.MAX_BULK:
        raise TooLarge(f"At most {schemas.MAX_BULK} runs at a time; these are {len(items)}.")
    return answers.value(call.services.executions.run_bulk(call.who, name, _texts(items), run_options(call.request)))


def _run(call: Call, name: str) -> Response:
    prefer = call.request.headers.get("Prefer", "")
    args = _args(call, name)
    seconds = preferred_wait(call.request)
    if seconds is not None:
        execution, ended = _wait(call, name, args, seconds)
        applied = f"wait={seconds:g}"
        return _result(call, execution, applied) if ended else _accepted(call, execution, applied)
    execution = call.services.executions.run(call.who, name, args, run_options(call.request))
    if _ASYNC.search(prefer):
        return _accepted(call, execution, "respond-async")
    return answers.text(f'"{execution.uuid}"', headers={"Execution-Id": execution.uuid})


def _run_sync(call: Call, name: str) -> Response:
    seconds = preferred_wait(call.request)
    execution, ended = _wait(call, name, _args(call, name), seconds)
    if not ended and gateway.departure.is_near:
        raise Unavailable(
            "This web process restarts; the execution goes on, and its record stays.",
            code="restarting",
            retry_after=1,
            execution_id=execution.uuid,
        )
    if not ended:
        raise TimedOut(
            "The execution has not ended within the wait; it goes on, and its record stays.",
            execution_id=execution.uuid,
        )
    return _result(call, execution, None if seconds is None else f"wait={seconds:g}")


def _wait(call: Call, name: str, args: Args, seconds: float | None) -> tuple[Execution, bool]:
    """Run and wait, among those who may; a caller who leaves meanwhile is not waited for, its run goes on."""
    gone, options = gateway.nobody_waits(call.request.environ), run_options(call.request)
    with call.waiters.waiting(call.who):
        return call.services.executions.run_wait(call.who, name, args, seconds, gone, options)


def _result(call: Call, execution: Execution, applied: str | None) -> Response:
    if execution.status != "Success":
        raise failure(execution)
    headers = {"Execution-Id": execution.uuid}
    if applied is not None:
        headers["Preference-Applied"] = applied
    if execution.output_size is not None:
        answer = answers.streamed(call.services.executions.output_of(execution), headers=headers)
        answer.call_on_close(call.waiters.stay(call.who).leave)
        return answer
    return answers.text(execution.output or "null", headers=headers)


def _accepted(call: Call, execution: Execution, applied: str) -> Response:
    prefix = call.request.path.split("/", 2)[1]
    headers = {
        "Execution-Id": execution.uuid,
        "Location": f"/{prefix}/executions/{execution.uuid}",
        "Preference-Applied": applied,
    }
    return answers.value({"uuid": execution.uuid}, status=202, headers=headers)


def failure(execution: Execution) -> ApiError:
    """What the caller of a sync run is told of an end that is no success."""
    message, uuid, error = _line(execution), execution.uuid, execution.error
    match execution.reason:
        case "cancelled":
            return Conflict(message, code="cancelled", execution_id=uuid)
        case "timeout":
            return TimedOut(message, code="timeout", execution_id=uuid, error=error)
        case "no_spot" | "worker_lost" as code:
            return Unavailable(message, code=code, execution_id=uuid, error=error, retry_after=RETRY_AFTER)
        case reason:
            return RunFailed(message, code=reason, execution_id=uuid, error=error)


def _line(execution: Execution) -> str:
    """The failure in one line, which is the record's output."""
    said = json.loads(execution.output or "null")
    return said if isinstance(said, str) else str(execution.reason)


def _args(call: Call, name: str) -> Args:
    """What the request says, kept as a blob where it is too long for a record."""
    args = wire.run_args(call.request, reading.ARGS_BODY)
    if not isinstance(args, str):
        return _kept(call, name, args)
    if len(args) > MAX_ARGS_BYTES // 4 and len(args.encode()) > MAX_ARGS_BYTES:
        return _kept(call, name, iter((args.encode(),)))
    return args


def _kept(call: Call, name: str, pieces: Iterator[bytes]) -> LargeValue:
    """Who sends much holds a thread for as long: one of those who may."""
    try:
        with call.waiters.waiting(call.who):
            return call.services.executions.take_args(call.who, name, pieces)
    except ApiError:
        gateway.discard(call.request.environ)
        raise


def _texts(items: list[Any]) -> list[str]:
    """Each item's JSON text; all bad ones are named before anything is queued."""
    bad = [
        FieldError(field=f"[{index}]", message="must be a JSON object of parameters")
        for index, item in enumerate(items)
        if not isinstance(item, dict)
    ]
    if bad:
        raise Invalid.fields(*bad[:100])
    texts = [strict.dump(item) for item in items]
    for index, text in enumerate(texts):
        if len(text) > MAX_ARGS_BYTES // 4 and len(text.encode()) > MAX_ARGS_BYTES:
            raise reading.too_large(f"[{index}]", MAX_ARGS_BYTES)
    return texts
