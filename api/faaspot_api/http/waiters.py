"""Callers that wait, for a result or for more of a log, and those that read a long answer. Each holds a thread of the
web process for as long.

They get most of the threads and never all, and no token gets all of theirs: what is short, the health checks first,
always finds a free one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from faaspot_api.domain.model import Principal
from faaspot_api.errors import Overloaded
from faaspot_api.settings import Settings

RETRY_AFTER = 5


class Waiters:
    """How many callers wait in this process: at most `most`, and at most `each` of one token."""

    def __init__(self, most: int, each: int) -> None:
        self._most = most
        self._each = min(each, most)
        self._lock = Lock()
        self._count = 0
        self._of: Counter[str] = Counter()

    @classmethod
    def of(cls, settings: Settings) -> Waiters:
        """The bounds of a server with these settings; a quarter of its threads is always left."""
        return cls(max(1, min(settings.max_waiting, settings.web_threads * 3 // 4)), settings.max_waiting_per_token)

    def enter(self, who: Principal) -> Seat:
        """Begin to wait. Raises Overloaded (with `retry_after`) if too many do."""
        with self._lock:
            if self._of[who.name] >= self._each:
                raise _overloaded(f"Too many callers with this token wait already ({self._each})")
            if self._count >= self._most:
                raise _overloaded(f"Too many callers wait already ({self._most})")
            return self._take(who)

    def stay(self, who: Principal) -> Seat:
        """The same for who has waited and now reads a long answer, which is refused to nobody any more."""
        with self._lock:
            return self._take(who)

    def _take(self, who: Principal) -> Seat:
        self._count += 1
        self._of[who.name] += 1
        return Seat(self, who.name)

    @contextmanager
    def waiting(self, who: Principal) -> Iterator[None]:
        """Wait within the block. Raises Overloaded."""
        seat = self.enter(who)
        try:
            yield
        finally:
            seat.leave()

    def leave(self, name: str) -> None:
        """A caller of the token `name` has its answer, or has gone."""
        with self._lock:
            self._count -= 1
            self._of[name] -= 1
            if not self._of[name]:
                del self._of[name]


class Seat:
    """One caller's place among the waiters, given back once."""

    def __init__(self, waiters: Waiters, name: str) -> None:
        self._waiters = waiters
        self._name = name
        self._left = False

    def leave(self) -> None:
        """Give the place back; again is harmless."""
        if not self._left:
            self._left = True
            self._waiters.leave(self._name)


def _overloaded(why: str) -> Overloaded:
    return Overloaded(f"{why}: run in the background, or try again in a moment.", retry_after=RETRY_AFTER)
