"""What a caller says of a run in headers, because the body is the function's args."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flask import Request

from faaspot_api.domain import callbacks, traces
from faaspot_api.domain.model import RunOptions
from faaspot_api.errors import FieldError, Invalid

KEY = "Idempotency-Key"
MAX_AGE = "Max-Queue-Age"
CALLBACK = "Callback-Url"
_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")
_SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,6})?")
MAX_WAIT = 900.0
"""Seconds that `Prefer: wait` may hold a connection; more is cut to it, and the answer says so."""
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9}(?:\.\d{1,9})?)\"?\s*(?:$|[,;])", re.IGNORECASE)

PARAMETERS: tuple[Mapping[str, Any], ...] = (
    {
        "name": KEY,
        "in": "header",
        "description": "The same request under the same key, within a day, is the same execution; another: 422.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
    {
        "name": MAX_AGE,
        "in": "header",
        "description": "Seconds that the run may wait for its start, then it ends as `no_spot`.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    {
        "name": CALLBACK,
        "in": "header",
        "description": "The http or https URL that is told of the end, in place of the deployment's `callback_url`.",
        "schema": {"type": "string", "maxLength": callbacks.MAX_URL},
    },
)
"""For the OpenAPI document."""


def preferred_wait(request: Request) -> float | None:
    """The seconds that the caller would wait for the answer (`Prefer: wait=N`), None if it did not say."""
    said = _WAIT.search(request.headers.get("Prefer", ""))
    return None if said is None else min(float(said[1]), MAX_WAIT)


def run_options(request: Request) -> RunOptions:
    """The options of a run request. Raises Invalid that names the header."""
    key, age = request.headers.get(KEY), request.headers.get(MAX_AGE)
    errors = []
    if key is not None and not _KEY.fullmatch(key):
        errors.append(FieldError(field=KEY, message="must be 1 to 255 printable ASCII characters"))
    if age is not None and not _SECONDS.fullmatch(age):
        errors.append(FieldError(field=MAX_AGE, message="must be a number of seconds"))
    if errors:
        raise Invalid.fields(*errors)
    return RunOptions(
        key=key,
        max_age=None if age is None else float(age),
        callback=request.headers.get(CALLBACK),
        traceparent=traces.parse(request.headers.get(traces.HEADER)),
    )
