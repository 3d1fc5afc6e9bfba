"""Threads for what an engine may take long over: their own, so that nothing else of a spot waits for one of them.

They are daemons and end when there is nothing to do: an engine that hangs does not keep a spot from ending.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Threads:
    """At most so many calls at once; the others wait for their turn, and can be cancelled until then."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._lock = threading.Lock()
        self._busy = 0
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """What the call will give or raise."""
        future: Future[Any] = Future()
        with self._lock:
            self._waiting.append((future, call))
            if self._busy < self._most:
                self._busy += 1
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return future

    def _work(self) -> None:
        while (turn := self._next()) is not None:
            future, call = turn
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 (whatever it is, it is told to who waits for it)
                future.set_exception(error)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """The next call, None if there is none: then the thread counts no more."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._busy -= 1
            return None
