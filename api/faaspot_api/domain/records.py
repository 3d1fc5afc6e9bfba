"""The one record of an execution as JSON text, without ever decoding a function's own values.

`output` and `args` of a record are JSON texts already; they are set into the record's text as they are.
"""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import datetime

from faaspot_api.domain.model import Execution
from faaspot_runner.contract import Timings, Usage

NO_TIMINGS = {field.name: None for field in fields(Timings)}
NO_USAGE = {field.name: None for field in fields(Usage)}
"""What was not measured is null: a record has the same keys whatever became of it."""
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False)


def time(moment: datetime | None) -> str | None:
    """W23: ``2017-07-21 15:10:52.537686+00:00``."""
    return None if moment is None else moment.isoformat(sep=" ", timespec="microseconds")


def text(execution: Execution) -> str:
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
        "output_size": execution.output_size,
        "args_size": execution.args_size,
    }
    return f'{_ENCODER.encode(known)[:-1]},"output":{execution.output or "null"},"args":{execution.args or "null"}}}'
