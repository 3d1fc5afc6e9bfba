"""The recorder's and the supervisor's side of Redis: events to read once, spot requests to take once.

Both hand out what is left from a predecessor that died in the middle before anything new, so whatever is done with
an event or a request must be idempotent.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis

from faaspot_api.queue import clients
from faaspot_api.queue.clients import SLICE_SECONDS, as_text, slices, translated
from faaspot_api.queue.rq import TAKEN
from faaspot_api.settings import Settings
from faaspot_runner.contract import (
    LEASE_DONE,
    LEASE_DONE_SECONDS,
    PREFIX,
    REPORTS,
    REPORTS_GROUP,
    SPOTS,
    SUPERVISOR,
    RunEnded,
    RunStarted,
    SpotRequest,
    dump,
    lease_key,
    load,
)

BURIED = PREFIX + "reports:buried"
"""Stream of the events nobody could apply, each with the reason; the oldest go first."""
BURIED_LENGTH = 1000
CONSUMER = "recorder"
"""One name for every recorder: what a dead one had read is its successor's at once, with no idle time to wait for."""

Event = RunStarted | RunEnded
_log = logging.getLogger("faaspot.queue")


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


class SpotRequests:
    """What the API asks of the supervisor, each taken once and kept until it is done."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    @classmethod
    def open(cls, url: str, password: str | None) -> SpotRequests:
        """The requests of the Redis at `url`; nothing is sent yet."""
        return cls(clients.open_client(url, password))

    def left_over(self) -> list[SpotRequest]:
        """Requests that a predecessor took and did not finish, oldest first. Raises Unavailable."""
        with translated():
            texts = self._redis.lrange(TAKEN, 0, -1)
        return [request for text in reversed(texts) if (request := self._request(text))]

    def take(self, seconds: float) -> SpotRequest | None:
        """The oldest request; blocks at most `seconds` for one. Raises Unavailable."""
        for wait in slices(seconds):
            with translated():
                text = self._redis.blmove(SUPERVISOR, TAKEN, wait, "LEFT", "LEFT")  # type: ignore[arg-type]
            if text is not None:
                return self._request(text)
        return None

    def hold(self, request: SpotRequest, seconds: float) -> bool:
        """Take the lease of the attempt, or take it over; False if its end was reported. Raises Unavailable."""
        key = lease_key(request.execution_id, request.attempt)
        with translated():
            if self._is_done(self._redis.get(key)):
                return False
            self._redis.set(key, request.token, ex=math.ceil(seconds))
        return True

    def finish(self, request: SpotRequest, *events: Event) -> None:
        """Report `events`, mark the attempt done and forget the request, all or nothing. Raises Unavailable."""
        with translated(), self._redis.pipeline() as pipe:
            for event in events:
                pipe.xadd(REPORTS, {"event": dump(event)})
            pipe.set(lease_key(request.execution_id, request.attempt), LEASE_DONE, ex=LEASE_DONE_SECONDS)
            pipe.lrem(TAKEN, 0, dump(request))
            pipe.execute()

    def report(self, event: Event) -> None:
        """Put one event on the reports stream. Raises Unavailable."""
        with translated():
            self._redis.xadd(REPORTS, {"event": dump(event)})

    def forget(self, addresses: Sequence[str]) -> None:
        """Take spots out of the list of those that exist. Raises Unavailable."""
        if addresses:
            with translated():
                self._redis.hdel(SPOTS, *addresses)

    def online(self) -> frozenset[str]:
        """Addresses that have registered. Raises Unavailable."""
        with translated():
            return frozenset(as_text(address) for address in self._redis.hkeys(SPOTS))

    def close(self) -> None:
        self._redis.close()

    def _request(self, text: bytes | str) -> SpotRequest | None:
        try:
            request = load(text)
        except ValueError as error:
            request, problem = None, str(error)
        else:
            problem = "not a spot request"
        if isinstance(request, SpotRequest):
            return request
        _log.error("a request to the supervisor is thrown away: %s", problem)
        with translated():
            self._redis.lrem(TAKEN, 0, as_text(text))
        return None

    @staticmethod
    def _is_done(value: bytes | str | None) -> bool:
        return value is not None and as_text(value) == LEASE_DONE


def _report(identifier: bytes | str, fields: dict[bytes, bytes]) -> Report:
    text = (fields or {}).get(b"event", b"").decode(errors="replace")
    try:
        event = load(text)
    except (ValueError, RecursionError) as error:
        return Report(id=as_text(identifier), text=text, event=None, problem=str(error) or "not JSON")
    if not isinstance(event, RunStarted | RunEnded):
        return Report(id=as_text(identifier), text=text, event=None, problem=f"a {event.kind} is no event")
    return Report(id=as_text(identifier), text=text, event=event)
