"""The supervisor's side of Redis: spot requests, each taken once and kept until it is done.

What a predecessor had taken when it died is still there, so carrying out a request must be idempotent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import redis

from faaspot_api.queue import clients
from faaspot_api.queue.clients import RECORDER, TAKEN, as_text, slices, translated
from faaspot_api.settings import Settings
from faaspot_runner.contract import (
    LEASE_DONE,
    LEASE_DONE_SECONDS,
    REPLY_SECONDS,
    REPORTS,
    SPOTS,
    SUPERVISOR,
    RunEnded,
    RunStarted,
    SpotRequest,
    dump,
    lease_key,
    load,
    load_spot,
    reply_key,
)

Event = RunStarted | RunEnded


class SpotRequests:
    """What the API asks of the supervisor, each taken once and kept until it is done."""

    def __init__(self, client: redis.Redis, say: Callable[[str], None]) -> None:
        self._redis = client
        self._say = say

    @classmethod
    def open(cls, settings: Settings, say: Callable[[str], None]) -> SpotRequests:
        """The requests of the settings' Redis; nothing is sent yet. `say` tells a person what cannot be read."""
        return cls(clients.connect(settings), say)

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

    def reply(self, request: SpotRequest, ended: RunEnded) -> None:
        """Tell the end to who waits for it. Raises Unavailable."""
        with translated(), self._redis.pipeline() as pipe:
            pipe.rpush(reply_key(request.execution_id), dump(ended))
            pipe.expire(reply_key(request.execution_id), REPLY_SECONDS)
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

    def recording(self) -> bool:
        """Whether the recorder lives and can record. Raises Unavailable."""
        with translated():
            return self._redis.get(RECORDER) == b""

    def running(self) -> int:
        """Executions in flight, as the spots last told. Raises Unavailable."""
        with translated():
            told = self._redis.hvals(SPOTS)
        return sum(_running(text) for text in told)

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
        self._say(f"a request for a spot is thrown away: {problem}")
        with translated():
            self._redis.lrem(TAKEN, 0, as_text(text))
        return None

    @staticmethod
    def _is_done(value: bytes | str | None) -> bool:
        return value is not None and as_text(value) == LEASE_DONE


def _running(text: bytes | str) -> int:
    try:
        return load_spot(text).running
    except ValueError:
        return 0
