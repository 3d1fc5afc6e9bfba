"""The recorder's side of Redis: what spots report, each event read until it is acknowledged.

What a predecessor had read when it died comes before anything new, so applying an event must be idempotent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis

from faaspot_api.queue import clients
from faaspot_api.queue.clients import SLICE_SECONDS, as_text, translated
from faaspot_api.settings import Settings
from faaspot_runner.contract import (
    PREFIX,
    REPORTS,
    REPORTS_GROUP,
    RunEnded,
    RunStarted,
    load,
)

BURIED = PREFIX + "reports:buried"
"""Stream of the events nobody could apply, each with the reason; the oldest go first."""
BURIED_LENGTH = 1000
CONSUMER = "recorder"
"""One name for every recorder: what a dead one had read is its successor's at once, with no idle time to wait for."""

Event = RunStarted | RunEnded


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One entry of the reports stream: its id, and the event or why it cannot be read."""

    id: str
    text: str
    event: Event | None
    problem: str = ""


class ReportStream:
    """The events of all spots, in order. Used by one thread."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._mine = "0"
        """Where to read on among the entries that were read and never acknowledged; "" when there are none."""

    @classmethod
    def open(cls, settings: Settings) -> ReportStream:
        """The stream of the settings' Redis; nothing is sent yet."""
        return cls(clients.connect(settings))

    def read(self, count: int, seconds: float) -> list[Report]:
        """Up to `count` events: first those that were read before and not acknowledged, then new ones.

        Blocks at most `seconds` for the first new one. Raises Unavailable.
        """
        if self._mine:
            left = self._read(self._mine, count, None)
            self._mine = left[-1].id if left else ""
            if left:
                return left
        return self._read(">", count, min(seconds, SLICE_SECONDS))

    def more(self, count: int) -> list[Report]:
        """Up to `count` new events that are there already. Raises Unavailable."""
        return self._read(">", count, None)

    def read_again(self) -> None:
        """Begin anew with what is not acknowledged, after an error in the middle."""
        self._mine = "0"

    def acknowledge(self, reports: Sequence[Report]) -> None:
        """These are dealt with; take them out of the stream. Raises Unavailable."""
        if not reports:
            return
        ids = [report.id for report in reports]
        with translated(), self._redis.pipeline() as pipe:
            pipe.xack(REPORTS, REPORTS_GROUP, *ids)
            pipe.xdel(REPORTS, *ids)
            pipe.execute()

    def bury(self, report: Report, reason: str) -> None:
        """Keep an event that cannot be applied where a person can look at it, and go on. Raises Unavailable."""
        with translated():
            self._redis.xadd(BURIED, {"event": report.text, "reason": reason}, maxlen=BURIED_LENGTH, approximate=True)
        self.acknowledge([report])

    def _read(self, after: str, count: int, seconds: float | None) -> list[Report]:
        block = None if seconds is None else max(1, math.ceil(seconds * 1000))
        with translated():
            try:
                answer = self._redis.xreadgroup(REPORTS_GROUP, CONSUMER, {REPORTS: after}, count=count, block=block)
            except redis.ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                self._make_group()
                return []
        entries = cast(Any, answer)[0][1] if answer else []
        return [_report(identifier, fields) for identifier, fields in entries]

    def _make_group(self) -> None:
        """A new server, or one that came back empty: read the stream from its beginning."""
        try:
            self._redis.xgroup_create(REPORTS, REPORTS_GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise


def _report(identifier: bytes | str, fields: dict[bytes, bytes]) -> Report:
    text = (fields or {}).get(b"event", b"").decode(errors="replace")
    try:
        event = load(text)
    except (ValueError, RecursionError) as error:
        return Report(id=as_text(identifier), text=text, event=None, problem=str(error) or "not JSON")
    if not isinstance(event, RunStarted | RunEnded):
        return Report(id=as_text(identifier), text=text, event=None, problem=f"a {event.kind} is no event")
    return Report(id=as_text(identifier), text=text, event=event)
