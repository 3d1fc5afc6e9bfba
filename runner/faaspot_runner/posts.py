"""Which of a worker's threads wait for wake-ups, and which of them is next."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from queue import SimpleQueue


class Posts:
    """Where threads stand and wait for wake-ups, one at each line; the others wait here.

    Whoever came last goes first: its connections are open and its memory is in the processor's caches. So a worker
    with little to do uses few of its threads, and the others cost nothing.
    """

    def __init__(self, posts: Iterable[tuple[str, str]]) -> None:
        self._lock = threading.Lock()
        self._free = deque(posts)
        self._waiting: list[SimpleQueue[tuple[str, str]]] = []

    def take(self) -> tuple[str, str]:
        """The post that has been free for longest; waits for one."""
        with self._lock:
            if self._free:
                return self._free.popleft()
            mine: SimpleQueue[tuple[str, str]] = SimpleQueue()
            self._waiting.append(mine)
        return mine.get()

    def leave(self, post: tuple[str, str]) -> None:
        """Somebody else may stand there."""
        with self._lock:
            if self._waiting:
                self._waiting.pop().put(post)
            else:
                self._free.append(post)
