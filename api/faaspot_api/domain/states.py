"""The one state machine of an execution.

::

    Pending --start--> Started --end--> Success | Failure | Cancelled
       ^  |               |
       |  |               +--retry--> Pending, attempt + 1, a new token (see `retries`: the attempt does not count)
       |  +--end--> Failure | Cancelled, or any end whose start report was lost on the way
       +--(never left once it has ended)

A report (started or ended) counts only for the very attempt and token that the record holds: what a worker says that
was given up in the meantime changes nothing. All functions are pure; a move that is not allowed gives None.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from faaspot_api.domain.retries import Retries
from faaspot_runner.contract import TERMINAL, Kind, Reason, Status

RETRIED_KINDS: frozenset[Kind] = frozenset({"run", "build"})
"""What may be started again. Adding a spot twice would make two spots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the machine looks at. `cancelling`: someone has asked for the end, the running attempt has yet to obey."""

    kind: Kind
    status: Status
    attempt: int
    token: str
    cancelling: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Who speaks: the attempt and the token that its worker was given."""

    attempt: int
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an attempt ended."""

    status: Literal["Success", "Failure", "Cancelled"]
    reason: Reason | None = None


def pending(kind: Kind, token: str) -> State:
    """The state of a new execution."""
    return State(kind=kind, status="Pending", attempt=1, token=token)


def is_ended(status: Status) -> bool:
    """Whether the status is never left again."""
    return status in TERMINAL


def speaks_for(state: State, report: Report) -> bool:
    """Whether the report is of the record's present attempt and may still change it."""
    return not is_ended(state.status) and (report.attempt, report.token) == (state.attempt, state.token)


def start(state: State, report: Report) -> State | None:
    """A worker has begun the attempt."""
    if state.status != "Pending" or not speaks_for(state, report):
        return None
    return replace(state, status="Started")


def end(state: State, report: Report, ended: End) -> State | None:
    """The attempt has ended, by its worker's word or the platform's decision."""
    if not speaks_for(state, report) or (ended.status == "Success") != (ended.reason is None):
        return None
    return replace(state, status=ended.status)


def may_retry(state: State, reason: Reason | None, retries: Retries) -> bool:
    """Whether an attempt that ended for `reason` is followed by another one."""
    return (
        reason in retries.reasons
        and state.kind in RETRIED_KINDS
        and not state.cancelling
        and state.attempt < retries.attempts
    )


def retry(state: State, token: str) -> State | None:
    """The attempt is given up and the next one waits; nothing that the old one still says counts."""
    if is_ended(state.status) or token == state.token:
        return None
    return replace(state, status="Pending", attempt=state.attempt + 1, token=token)


def cancel(state: State) -> State | None:
    """Someone wants it ended: at once while it waits; once it runs, when its worker has killed it."""
    if is_ended(state.status):
        return None
    if state.status == "Pending":
        return replace(state, status="Cancelled")
    return replace(state, cancelling=True)
