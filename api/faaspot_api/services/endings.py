"""From what a worker reports to what a record keeps: bounded, complete, readable for old clients. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from faaspot_api.domain.states import End
from faaspot_api.store.executions import Ending, Tracked
from faaspot_api.store.moments import SECOND, now
from faaspot_runner.contract import LOG_CUT_MARK, MAX_ERROR_BYTES, MAX_LOG_BYTES, Error, Marks, RunEnded, Timings, Usage

MAX_LINE = 500
"""Characters of the one line that stands for an error."""
MAX_SPOT = 255


def verdict(event: RunEnded) -> End | None:
    """How the attempt ended, made whole where the report is not; None if it is no end at all."""
    match event.status:
        case "Success":
            return End(status="Success")
        case "Failure":
            return End(status="Failure", reason=event.reason or "error")
        case "Cancelled":
            return End(status="Cancelled", reason="cancelled")
        case _:
            return None


def decided(row: Tracked, at: int, end: End, error: Error) -> RunEnded:
    """The end that the platform itself decides on, in the form of a report. `at`: microseconds."""
    return RunEnded(
        execution_id=row.uuid,
        attempt=row.state.attempt,
        token=row.state.token,
        spot="",
        at=at / SECOND,
        status=end.status,
        reason=end.reason,
        error=error,
    )


def ending(row: Tracked, event: RunEnded, end: End, spot: str | None) -> Ending:
    """What is written of the end. No time goes backwards, whatever the clocks of the spots say."""
    started = row.started if row.started is not None else _derived_start(row, event)
    ended = max(int(event.at * SECOND), row.created, started or 0)
    timings = _timed(event.timings, now() - row.created)
    timings.setdefault("total_ms", round((ended - row.created) / 1000, 3))
    large = event.large if end.status == "Success" else None
    return Ending(
        seq=row.seq,
        status=end.status,
        reason=end.reason,
        started=started,
        ended=ended,
        spot=event.spot[:MAX_SPOT] or spot,
        output=storable(event.output) if end.status == "Success" else json.dumps(line(end, event.error)),
        error=None if end.status == "Success" else _error(end, event.error),
        logs_truncated=event.logs_truncated or len(event.log) > MAX_LOG_BYTES,
        timings=timings,
        usage=_said(event.usage),
        output_blob=large.digest if large else None,
        output_size=large.size if large else None,
    )


def log(event: RunEnded) -> str:
    """The log, cut visibly where it is longer than is kept."""
    if len(event.log) <= MAX_LOG_BYTES + len(LOG_CUT_MARK) + 20:
        return event.log
    kept = event.log[:MAX_LOG_BYTES]
    dropped = len(event.log[MAX_LOG_BYTES:].encode("utf-8", "surrogatepass"))
    return kept + LOG_CUT_MARK.format(dropped=dropped)


def line(end: End, error: Error | None) -> str:
    """The error in one line: all that the published clients print."""
    if error is None:
        return f"{end.status}: {end.reason}"
    if end.reason == "build_failed":  # the resolver explains over several lines, and the first says nothing yet
        return " ".join(error.message.split())[:MAX_LINE] or error.type
    first = next((part for part in error.message.splitlines() if part.strip()), "")
    named = f"{error.type}: {first}" if end.reason in ("error", "unserialisable") and error.type else first
    return named[:MAX_LINE].strip() or error.type


def storable(text: str | None) -> str | None:
    """The text without what a database cannot hold: NUL and lone surrogates, which strict JSON has only escaped."""
    return None if text is None else text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _derived_start(row: Tracked, event: RunEnded) -> int | None:
    """When it began, if the report of that has not come. What no worker took has no queue time, and no success."""
    if event.timings.queue_ms is not None:
        return row.created + max(0, int(event.timings.queue_ms * 1000))
    return max(row.created, int(event.at * SECOND)) if event.status == "Success" else None


def _timed(measured: Timings, recorded: int) -> dict[str, Any]:
    """What the spot measured, and that its end is on record now, so many microseconds after it was accepted."""
    said, marks = _said(measured), _said(measured.marks)
    del said["marks"]
    return {**said, "marks": {**marks, "recorded": recorded / 1000}} if marks else said


def _said(measured: Timings | Usage | Marks) -> dict[str, Any]:
    return {name: value for name in measured.__slots__ if (value := getattr(measured, name)) is not None}


def _error(end: End, error: Error | None) -> str:
    if error is None:
        error = Error(type=str(end.reason), message=f"The execution ended as {end.status} ({end.reason}).")
    error = replace(error, type=error.type[:MAX_LINE], message=error.message[:MAX_ERROR_BYTES])
    if error.traceback is not None:
        # The end of a traceback says what happened.
        error = replace(error, traceback=error.traceback[-MAX_ERROR_BYTES:])
    return json.dumps(asdict(error))
