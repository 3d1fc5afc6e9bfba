"""The log of a spot or of one of its workers: one line of JSON an event on stderr, in the same form as the API's.

Each has `timestamp`, `level`, `event`, `logger`, `process`; what is logged while a worker is at an execution has its
`execution_id` and `attempt`, and `trace_id` where the caller sent a trace.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager

import structlog
from structlog.typing import EventDict, WrappedLogger

from faaspot_runner.contract import BuildRequest, RunRequest


def configure(level: str, process: str) -> None:
    """Log from `level` on, as `process`. Once for each process, before anything is logged."""

    def name(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler])


def about(request: RunRequest | BuildRequest) -> AbstractContextManager[object]:
    """What this thread logs meanwhile is about this attempt."""
    known: dict[str, object] = {"execution_id": request.execution_id, "attempt": request.attempt}
    if isinstance(request, RunRequest) and request.traceparent is not None:
        known["trace_id"] = request.traceparent.split("-")[1]
    return structlog.contextvars.bound_contextvars(**known)
