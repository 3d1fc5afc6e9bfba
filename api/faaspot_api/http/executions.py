"""Executions: records, pages of them, logs, cancelling."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlencode

from flask import Response

from faaspot_api.domain import records
from faaspot_api.domain.model import Filter
from faaspot_api.errors import FieldError, Invalid, TooLarge
from faaspot_api.http import answers, gateway, reading, schemas, wire
from faaspot_api.http.options import preferred_wait
from faaspot_api.http.routes import Call, Routes

routes = Routes("executions")

NAMED = 100
"""How many bad items of a bulk request an error names."""
BULK_GET = {
    "parameters": [
        {
            "name": "Prefer",
            "in": "header",
            "description": "`wait=N`: answer once the first of these has ended, or after N seconds.",
            "schema": {"type": "string"},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "array", "items": {"type": "string", "format": "uuid"}, "maxItems": schemas.MAX_BULK}
            }
        },
    },
}


@routes.route("GET", "/executions/", list[schemas.Execution], query=schemas.ListExecutions)
def list_executions(call: Call, query: schemas.ListExecutions) -> Response:
    """Executions, newest first, a page at a time: the `Link` header leads to the next."""
    wanted = Filter(
        status=query.status,
        deployment=query.deployment,
        reason=query.reason,
        since=query.since,
        until=query.until,
        ended=bool(query.include_completed),
        rerun=query.rerun,
    )
    page = call.services.executions.list(call.who, wanted, query.limit, query.cursor)
    headers = {} if page.cursor is None else {"Link": f'<{_next(call, page.cursor)}>; rel="next"'}
    return answers.text(answers.records(page.items), headers=headers)


@routes.route("GET", "/executions/<member:uuid>", schemas.Execution, errors=(404,))
def get_execution(call: Call, uuid: str) -> Response:
    """The record of one execution."""
    return answers.text(records.text(call.services.executions.get(call.who, uuid)))


@routes.route("POST", "/executions/bulk", list[schemas.Execution], errors=(404, 413, 429), document=BULK_GET)
def get_executions(call: Call) -> Response:
    """The records of many executions, in the order of their ids; with `Prefer: wait=N` once the first has ended."""
    ids = wire.items(call.request, "tasks", reading.BULK_BODY)
    if len(ids) > schemas.MAX_BULK:
        raise TooLarge(f"At most {schemas.MAX_BULK} ids at a time; these are {len(ids)}.")
    bad = [index for index, uuid in enumerate(ids) if not isinstance(uuid, str)]
    if bad:
        raise Invalid.fields(*(FieldError(field=f"[{n}]", message="must be an execution id") for n in bad[:NAMED]))
    seconds = preferred_wait(call.request)
    if seconds is None or not ids:
        return answers.text(answers.records(call.services.executions.get_bulk(call.who, ids)))
    with call.waiters.waiting(call.who):
        gone = gateway.nobody_waits(call.request.environ)
        found = call.services.executions.get_bulk(call.who, ids, seconds, gone)
    return answers.text(answers.records(found), headers={"Preference-Applied": f"wait={seconds:g}"})


@routes.route("DELETE", "/executions/<member:uuid>", schemas.Execution, errors=(404, 409))
def cancel_execution(call: Call, uuid: str) -> Response:
    """Cancel an execution that has not ended."""
    return answers.text(records.text(call.services.executions.cancel(call.who, uuid)))


@routes.route("GET", "/executions/<uuid>/output", Any, errors=(404, 409, 429))
def get_output(call: Call, uuid: str) -> Response:
    """What an execution that has ended returned, also where that is too long for its record."""
    return _read(call, lambda: answers.streamed(call.services.executions.output(call.who, uuid)))


@routes.route("GET", "/executions/<uuid>/args", Any, errors=(404, 429))
def get_args(call: Call, uuid: str) -> Response:
    """What an execution was given, also where that is too long for its record."""
    return _read(call, lambda: answers.streamed(call.services.executions.args(call.who, uuid)))


@routes.route("GET", "/executions/<uuid>/logs", str, query=schemas.Logs, errors=(404, 429), media="text/plain")
def get_logs(call: Call, uuid: str, query: schemas.Logs) -> Response:
    """What an execution wrote to stdout and stderr, in order."""
    if query.follow:
        gone = gateway.gone(call.request.environ)
        return _read(call, lambda: _text(call.services.executions.follow(call.who, uuid, gone)))
    return _text([call.services.executions.logs(call.who, uuid)])


def _read(call: Call, make: Callable[[], Response]) -> Response:
    """An answer that grows, or may have a gigabyte; until it is closed its reader is one of those who wait."""
    seat = call.waiters.enter(call.who)
    try:
        answer = make()
    except BaseException:
        seat.leave()
        raise
    answer.call_on_close(seat.leave)
    return answer


def _text(log: Iterable[str]) -> Response:
    chunks = (text.encode("utf-8", "backslashreplace") for text in log)
    return Response(chunks, content_type="text/plain; charset=utf-8")


def _next(call: Call, cursor: str) -> str:
    """The same list from `cursor` on; without a host, which only the caller knows."""
    asked = {name: said for name, said in reading.pairs(call.request.query_string).items() if name != "cursor"}
    return f"{call.request.path}?{urlencode({**asked, 'cursor': cursor})}"
