"""The conversations about executions: what both clients hold, and what other resources wait with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias, TypeVar

from faaspot import _calls
from faaspot._calls import Conversation, Pause, Request
from faaspot.errors import ApiError, BadAnswer, BadArgument, ConnectionFailed, RunError, TooLarge, WaitTimeout
from faaspot.types import Callback, Execution, Rerun

T = TypeVar("T")
Reference: TypeAlias = str | Execution
"""An execution: its id, or a record of it."""
Several: TypeAlias = list[Any] | tuple[Any, ...]
"""Several references; not any sequence, for a text is one, too."""

FIRST_POLL = 0.02
LONGEST_POLL = 1.0
PATIENCE = 60.0
"""Seconds that a wait goes on while the platform does not answer: it may be starting again."""
WAIT_SECONDS = 20.0
"""How long the platform may hold an answer back until the first of several has ended."""
ANSWER_SECONDS = 60.0
"""How long the answer itself may take then."""
PAGE = 1000
"""The most records that one page has."""
BULK = 100
"""How many executions are waited for at once; results may be megabytes each."""
FOLLOW_SECONDS = 90_000.0
"""A log may be silent as long as a run may take: a day, and an hour to spare."""


# ---------------------------------------------------------------- calls


def _uuid(execution: Reference) -> str:
    if isinstance(execution, str | Execution):
        return execution if isinstance(execution, str) else execution.uuid
    raise BadArgument(f"An execution is its id or its record, not {execution!r}")


def _path(execution: Reference) -> str:
    return f"executions/{_calls.segment(_uuid(execution))}"


def fetch(execution: Reference) -> Conversation[Execution]:
    """The record."""
    return Execution((yield from _calls.ask(_calls.get(_path(execution)))))


def fetch_bulk(executions: Sequence[Reference], wait: float | None = None) -> Conversation[list[Execution]]:
    """The records of several, in the order asked for; one that is asked for twice is there twice.

    `wait`: answered when the first of them has ended, or after so many seconds.
    """
    uuids = [_uuid(each) for each in executions]
    body = list(dict.fromkeys(uuids))
    waiting: dict[str, Any] = {}
    if wait is not None:
        waiting = {"headers": {"Prefer": f"wait={wait:g}"}, "timeout": wait + ANSWER_SECONDS}
    found = yield from _calls.ask(_calls.send("POST", "executions/bulk", body, safe=True, **waiting))
    if not isinstance(found, list) or len(found) != len(body):
        raise BadAnswer(f"Expected {len(body)} records, got {str(found)[:200]}")
    records = dict(zip(body, found, strict=True))
    return [Execution(records[each]) for each in uuids]


def read(executions: Reference | Several) -> Conversation[Any]:
    if isinstance(executions, list | tuple):
        return (yield from fetch_bulk(executions))
    return (yield from fetch(executions))


def page(
    cursor: str | None, size: int, filters: dict[str, str | None]
) -> Conversation[tuple[list[Execution], str | None]]:
    """One page of records, newest first, and the cursor of the next."""
    request = _calls.get("executions/", limit=str(size), cursor=cursor, **filters)
    response = yield from _calls.exchange(request)
    return [Execution(each) for each in _calls.decode(response)], _calls.next_cursor(response)


def newest(limit: int, filters: dict[str, str | None]) -> Conversation[list[Execution]]:
    found: list[Execution] = []
    cursor: str | None = None
    while len(found) < limit:
        items, cursor = yield from page(cursor, min(limit - len(found), PAGE), filters)
        found += items
        if cursor is None:
            break
    return found[:limit]


def filters(
    include_completed: bool,
    deployment: str | None,
    status: str | None,
    reason: str | None,
    since: datetime | str | None,
    until: datetime | str | None,
    rerun: bool | None,
) -> dict[str, str | None]:
    return {
        "include_completed": str(bool(include_completed)),
        "deployment": deployment,
        "status": status,
        "reason": reason,
        "since": _moment(since),
        "until": _moment(until),
        "rerun": None if rerun is None else str(bool(rerun)),
    }


def _moment(value: datetime | str | None) -> str | None:
    return value.isoformat() if isinstance(value, datetime) else value


def cancel(execution: Reference) -> Conversation[Any]:
    """Cancel; the platform's answer, a record where it is one."""
    answer = yield from _calls.ask(_calls.send("DELETE", _path(execution)))
    return Execution(answer) if isinstance(answer, dict) else answer


def callback(execution: Reference) -> Conversation[Callback]:
    """Who is told of its end, and what came of it."""
    return Callback((yield from _calls.ask(_calls.get(f"{_path(execution)}/callbacks"))))


def rerun(execution: Reference) -> Conversation[str]:
    """The id of the new execution."""
    return _calls.uuid_of((yield from _calls.ask(_calls.send("POST", f"{_path(execution)}/rerun"))))


def rerun_all(
    status: str | None,
    deployment: str | None,
    reason: str | None,
    since: datetime | str | None,
    until: datetime | str | None,
) -> Conversation[list[Rerun]]:
    """All that match, part by part."""
    asked = {
        "status": status,
        "deployment": deployment,
        "reason": reason,
        "since": _moment(since),
        "until": _moment(until),
    }
    body: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    done: list[Rerun] = []
    while True:
        answer = yield from _calls.ask(_calls.send("POST", "executions/rerun", body))
        done += [Rerun(each) for each in answer["reruns"]]
        if answer["cursor"] is None:
            return done
        body["cursor"] = answer["cursor"]


def log(execution: Reference) -> Conversation[str]:
    response = yield from _calls.exchange(_calls.get(f"{_path(execution)}/logs"))
    return response.text if response.status == 200 else str(_calls.decode(response))


def follow(execution: Reference) -> Request:
    path = f"{_path(execution)}/logs"
    return Request(method="GET", path=path, query=(("follow", "true"),), timeout=FOLLOW_SECONDS, safe=True)


def until_ended(execution: Reference, timeout: float | None = None) -> Conversation[Execution]:
    """The record once it has ended. `WaitTimeout` after `timeout` seconds, None = however long it takes."""
    limit = None if timeout is None else _calls.seconds(timeout)
    record = yield from poll(lambda: fetch(execution), lambda found: found.has_ended, limit)
    if record is None:
        raise _not_in_time(_uuid(execution), timeout or 0.0)
    return record


def poll(
    look: Callable[[], Conversation[T]],
    done: Callable[[T], bool],
    timeout: float | None,
    clock: Callable[[], float] = time.monotonic,
) -> Conversation[T | None]:
    """Look again and again, with growing pauses, until `done`; None if `timeout` seconds passed first.

    A platform that is away for less than `PATIENCE` seconds does not end the wait.
    """
    started = heard = clock()
    pause = FIRST_POLL
    while True:
        try:
            found = yield from look()
            heard = clock()
            if done(found):
                return found
        except (ConnectionFailed, ApiError) as error:
            if _final(error) or clock() - heard > PATIENCE:
                raise
        left = math.inf if timeout is None else started + timeout - clock()
        if left <= 0:
            return None
        yield Pause(min(pause, left))
        pause = min(pause * 1.5, LONGEST_POLL)


def _final(error: ConnectionFailed | ApiError) -> bool:
    """Whether asking again cannot help."""
    return isinstance(error, ApiError) and (error.status is None or error.status < 500) and error.status != 429


def _not_in_time(uuid: str, timeout: float) -> WaitTimeout:
    return WaitTimeout(
        f"Execution {uuid} has not ended within {timeout:g} s; it goes on",
        status=504,
        error_code="wait_timeout",
        execution_id=uuid,
        hint=f"`fas executions get {uuid} --wait` waits on.",
    )


def result(execution: Reference, timeout: float | None = None) -> Conversation[Any]:
    """The value that the execution returned, once it has ended; raises the `RunError` of one that did not succeed."""
    return _output((yield from whole((yield from until_ended(execution, timeout)))))


def output(execution: Reference) -> Conversation[Any]:
    """What it returned, however long that is."""
    return (yield from _calls.ask(_calls.get(f"{_path(execution)}/output")))


def args(execution: Reference) -> Conversation[Any]:
    """What it was given, however long that is."""
    return (yield from _calls.ask(_calls.get(f"{_path(execution)}/args")))


def whole(record: Execution) -> Conversation[Execution]:
    """The record with its output in it, also where that is too long to come along."""
    if record.get("output_size") is not None and record.status == "Success":
        record["output"] = yield from output(record.uuid)
    return record


def _output(record: Execution) -> Any:
    if record.status != "Success":
        raise _calls.failure_of(record)
    return record.output


def outcome(record: Execution, return_exceptions: bool) -> Any:
    """What the execution returned; the `RunError` of one that did not succeed is raised, or given back."""
    try:
        return _output(record)
    except RunError as error:
        if return_exceptions:
            return error
        raise


def all_ended(executions: Sequence[Reference]) -> Conversation[list[Execution]]:
    """The records, in order, once all have ended."""
    uuids = [_uuid(each) for each in executions]
    found: list[Execution] = []
    for start in range(0, len(uuids), BULK):
        found += yield from _ended_together(uuids[start : start + BULK])
    return found


def _ended_together(uuids: list[str]) -> Conversation[list[Execution]]:
    """The records of a few, once all have ended."""
    ended: dict[str, Execution] = {}
    while left := [uuid for uuid in uuids if uuid not in ended]:
        ended |= {record.uuid: record for record in (yield from awaited(left)) if record.has_ended}
    return [ended[uuid] for uuid in uuids]


def awaited(uuids: Sequence[str]) -> Conversation[list[Execution]]:
    """The records of these once the first has ended; of the first few where all are too large for one answer.

    The platform holds the answer back until then; one that is too old for that is asked with growing pauses.
    """
    try:
        look = partial(fetch_bulk, uuids, WAIT_SECONDS)
        return (yield from poll(look, lambda records: records[0].has_ended, None)) or []
    except TooLarge:
        if len(uuids) == 1:
            raise
    return (yield from awaited(uuids[: len(uuids) // 2]))


def results(uuids: Sequence[str], return_exceptions: bool = False) -> Conversation[list[Any]]:
    """What each returned, in order, once all have ended."""
    outputs: list[Any] = []
    for start in range(0, len(uuids), BULK):
        for record in (yield from all_ended(uuids[start : start + BULK])):
            outputs.append(outcome((yield from whole(record)), return_exceptions))
    return outputs


def succeeded(execution: Reference, wait: bool) -> Conversation[str | Execution]:
    """What create, delete and their like give back: the id, or after a wait the record of what succeeded."""
    if not wait:
        return _uuid(execution)
    record = yield from until_ended(execution)
    if record.status != "Success":
        raise _calls.failure_of(record)
    return record
