"""Sandboxes that stand ready before anybody runs their versions, because a deployment asks for it (`min_warm`).

What is to stand is said anew every second, so nothing is remembered here but how the starts went: one that fails, or
whose sandbox does not live for long, is tried again ever more seldom. The sandboxes are those of the pool, so the first
run finds one as any later run does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from faaspot_runner.contract import SandboxSpec
from faaspot_runner.errors import SandboxError
from faaspot_runner.runtimes.pool import SandboxPool

log = logging.getLogger(__name__)

AT_ONCE = 2
"""Starts at a time: runs that wait for theirs come first."""
PAUSE_SECONDS = 2.0
"""Before the second start of the same sandbox; twice as long before each further one."""
LONGEST_PAUSE = 300.0
STOOD_SECONDS = 60.0
"""A start after which it stood for so long counts as the first."""


@dataclass(slots=True)
class _Starts:
    last: float
    pause: float = 0.0


Install = Callable[[SandboxSpec, float], Awaitable[SandboxSpec]]
"""The spec of a version once its packages are on this spot, by the name that they have here. Raises SandboxError."""


class Ahead:
    """Starts what is missing. Lives on one event loop. `most`: of so many at most; `seconds`: for one start."""

    def __init__(
        self,
        pool: SandboxPool,
        install: Install,
        *,
        most: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._install = install
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._starts: dict[SandboxSpec, _Starts] = {}
        self._here: dict[SandboxSpec, SandboxSpec] = {}
        self._tasks: dict[SandboxSpec, asyncio.Task[None]] = {}
        self._gone: frozenset[str] = frozenset()

    def want(self, specs: Sequence[SandboxSpec]) -> None:
        """These shall stand, the first of them first. Said again and again."""
        self._gone &= {spec.version_id for spec in specs}
        wanted = [spec for spec in specs if spec.version_id not in self._gone][: self._most]
        self._here = {spec: here for spec, here in self._here.items() if spec in wanted}
        self._pool.keep(frozenset(self._here.values()))
        self._starts = {spec: starts for spec, starts in self._starts.items() if spec in wanted}
        for spec in wanted:
            if len(self._tasks) >= AT_ONCE or self._pool.short:
                return
            if spec not in self._tasks and not self._stands(spec) and self._due(spec):
                self._tasks[spec] = asyncio.create_task(self._start(spec), name=f"ready {spec.deployment}")

    def release(self, version_ids: Collection[str]) -> None:
        """These versions are no more, whatever was said before this."""
        self._gone |= frozenset(version_ids)

    async def close(self) -> None:
        """Start nothing more."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _stands(self, spec: SandboxSpec) -> bool:
        here = self._here.get(spec)
        return here is not None and self._pool.stands(here)

    def _due(self, spec: SandboxSpec) -> bool:
        """Whether it may be started now; counts as a start."""
        now = self._clock()
        before = self._starts.get(spec)
        if before is None or now - before.last > before.pause + STOOD_SECONDS:
            self._starts[spec] = _Starts(now)
            return True
        if now - before.last < before.pause:
            return False
        self._starts[spec] = _Starts(now, min(max(PAUSE_SECONDS, before.pause * 2), LONGEST_PAUSE))
        return True

    async def _start(self, spec: SandboxSpec) -> None:
        deadline = time.monotonic() + self._seconds
        try:
            here = self._here[spec] = await self._install(spec, deadline)
            self._pool.keep(frozenset(self._here.values()))
            await self._pool.prepare(here, deadline)
        except (SandboxError, TimeoutError, OSError) as error:
            log.warning("%s %s does not stand ready: %s", spec.deployment, spec.version, error or "it took too long")
        finally:
            del self._tasks[spec]
