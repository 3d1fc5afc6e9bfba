"""How many short runs a worker drives at once: about as many as there are processors for them.

Forty of them at once take forty times as long as one, and bring no more: each waits for the others, for processors and
for the interpreter's lock, and so does whoever comes from another deployment. What has gone on for a while is none of
many short ones: it sleeps, waits for somebody, or computes, which the kernel shares out well by itself.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHORT_SECONDS = 0.05
"""Who is in for so long does not count any more."""


class _Step:
    """One run's way in."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.since = 0.0
        self.entered = threading.Event()


class Pace:
    """Lets runs begin: `most` at once, and in any case one of each deployment. Thread-safe."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._inside: list[_Step] = []
        self._waiting: deque[_Step] = deque()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A run of the deployment `name`: the block begins when it may. It is never kept long."""
        step = _Step(name)
        with self._lock:
            self._waiting.append(step)
            self._let_in()
        while not step.entered.wait(SHORT_SECONDS):
            with self._lock:
                self._let_in()
        try:
            yield
        finally:
            with self._lock:
                if step in self._inside:
                    self._inside.remove(step)
                self._let_in()

    def _let_in(self) -> None:
        """Whoever may: of the deployment with the fewest inside the one that came first."""
        now = self._clock()
        self._inside = [step for step in self._inside if now - step.since < SHORT_SECONDS]
        inside = Counter(step.name for step in self._inside)
        while self._waiting:
            following = min(self._waiting, key=lambda step: inside[step.name])
            if inside[following.name] and len(self._inside) >= self._most:
                return
            self._waiting.remove(following)
            following.since = now
            self._inside.append(following)
            inside[following.name] += 1
            following.entered.set()
