"""The warm sandboxes of a spot: one for each spec, started once however many ask, taken down when nobody needs it.

The workers run executions in a sandbox without asking again, so they tell every few seconds which ones they use
(`touch`). A sandbox that goes is retired first: its zygote takes no new run and ends after the last one; what does not
end by itself is stopped once no worker uses it any more, for a zygote is as untrusted as its deployment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial

from faaspot_runner.connectors.base import Sandbox
from faaspot_runner.contract import Error, SandboxSpec

log = logging.getLogger(__name__)

LINGER = 15.0
"""Seconds without a word of a worker after which a retired sandbox is stopped: three of the workers' rounds."""

LEAST_FREE = 0.1
"""Of the machine's memory: with less than this share free, sandboxes go before they have been idle for long."""

FATES = 1024
"""How many sandboxes that were killed for what they did are remembered, for their runs to ask."""

Open = Callable[[SandboxSpec, float], Awaitable[Sandbox]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquired:
    """A sandbox that is ready. `cold`: the asker waited for its start; `first`: nobody asked before, it has the log."""

    sandbox: Sandbox
    cold: bool
    first: bool


class _Entry:
    """One sandbox: `start` is the task that opens it, its result the sandbox; `over`: nothing of it is left."""

    __slots__ = ("asked", "buried", "over", "spec", "start", "used")

    def __init__(self, spec: SandboxSpec, start: asyncio.Task[Sandbox], now: float) -> None:
        self.spec = spec
        self.start = start
        self.used = now
        self.asked = False
        self.buried = False
        self.over = asyncio.Event()

    @property
    def sandbox(self) -> Sandbox | None:
        """The sandbox once it is there."""
        if not self.start.done() or self.start.cancelled() or self.start.exception() is not None:
            return None
        return self.start.result()


class SandboxPool:
    """Sandboxes by spec. Lives on one event loop. `most`: how many stay warm; `idle`: seconds without a run."""

    def __init__(
        self,
        opener: Open,
        *,
        most: int,
        idle: float,
        gone: Callable[[str], None] = lambda _: None,
        leaves: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        free: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """`gone` is told the id of each sandbox that is dead or about to be, `leaves` of each that takes no new run.

        `free`: see `pressure.free_share`.
        """
        self._open = opener
        self._gone = gone
        self._leaves = leaves
        self._most = most
        self._idle = idle
        self._clock = clock
        self._free = free
        self._warm: dict[SandboxSpec, _Entry] = {}
        self._leaving: dict[str, _Entry] = {}
        self._kept: frozenset[SandboxSpec] = frozenset()
        self._fates: dict[str, Error] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._warm) + len(self._leaving)

    @property
    def environments(self) -> frozenset[str]:
        """Names of the environments that a sandbox still has mounted."""
        specs = [*self._warm, *(entry.spec for entry in self._leaving.values())]
        return frozenset(spec.environment for spec in specs if spec.environment)

    @property
    def versions(self) -> tuple[str, ...]:
        """Ids of the versions that have a sandbox ready here."""
        return tuple({spec.version_id for spec, entry in self._warm.items() if entry.sandbox is not None})

    @property
    def short(self) -> bool:
        """Whether the machine's memory is so short that sandboxes which nobody uses go."""
        return self._free() < LEAST_FREE

    # ------------------------------------------------------------ asking

    async def acquire(self, spec: SandboxSpec, deadline: float, avoid: str | None = None) -> Acquired:
        """The sandbox of a spec, started if need be, by `deadline` (`time.monotonic`).

        `avoid`: id of a sandbox that failed the asker; if it is the one at hand it is retired for a new one. Raises
        SandboxError to all who waited for a start that failed, and TimeoutError if the deadline passes first; the
        next asker tries again.
        """
        entry = self._standing(spec, avoid)
        cold = entry is None or entry.sandbox is None
        if entry is None:
            entry = self._start(spec, deadline)
        first, entry.asked = not entry.asked, True
        return Acquired(sandbox=await self._started_by(entry, deadline), cold=cold, first=first)

    async def prepare(self, spec: SandboxSpec, deadline: float) -> None:
        """Have the sandbox of a spec stand ready; who asks for it first has its log. Raises as `acquire` does."""
        await self._started_by(self._standing(spec) or self._start(spec, deadline), deadline)

    def stands(self, spec: SandboxSpec) -> bool:
        """Whether its sandbox is there, or is being started."""
        return spec in self._warm

    def keep(self, specs: frozenset[SandboxSpec]) -> None:
        """The sandboxes of these, and no longer of others, stay also when nobody uses them, as long as memory lasts."""
        self._kept = specs

    def touch(self, sandboxes: Collection[str]) -> None:
        """These are in use now."""
        now = self._clock()
        for entry in (*self._warm.values(), *self._leaving.values()):
            if (sandbox := entry.sandbox) is not None and sandbox.id in sandboxes:
                entry.used = now

    # ------------------------------------------------------------ going

    def release(self, version_ids: Collection[str]) -> None:
        """Retire the sandboxes of versions that are gone."""
        self._retire(entry for entry in tuple(self._warm.values()) if entry.spec.version_id in version_ids)

    async def clear(self, runtime: str, seconds: float) -> None:
        """Retire the sandboxes of a runtime, give what runs in them so many seconds, then stop what is left.

        One that is still starting when the time is up is left to its connector's undeploy.
        """
        entries = [each for each in (*self._warm.values(), *self._leaving.values()) if each.spec.runtime == runtime]
        self._retire(each for each in entries if self._warm.get(each.spec) is each)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(each.over.wait() for each in entries))
        started = [each for each in entries if each.sandbox is not None]
        for each in started:
            self._bury(each)
        await asyncio.gather(*(each.over.wait() for each in started))

    def evict(self) -> None:
        """Retire what was idle too long, and stop what was retired and is used no more. Called every few seconds.

        While the machine's memory is short a quarter of what nobody uses now is retired at each call, the least used
        first; what is to be kept goes only when nothing else is left.
        """
        now = self._clock()
        self._retire(entry for entry in self._unkept() if now - entry.used > self._idle)
        if self.short:
            # Not what is being started: it is waited for, and who asked next would have it started once more beside.
            there = (entry for entry in self._warm.values() if entry.sandbox is not None)
            unused = sorted((entry for entry in there if now - entry.used > LINGER), key=lambda entry: entry.used)
            unused = [entry for entry in unused if entry.spec not in self._kept] or unused
            self._retire(unused[: -(-len(unused) // 4)])
        for entry in tuple(self._leaving.values()):
            if now - entry.used > LINGER:
                self._bury(entry)

    def suspect(self, sandbox_id: str) -> bool:
        """Kill a sandbox whole, at once. False if it is not here any more."""
        for entry in (*self._warm.values(), *self._leaving.values()):
            if (sandbox := entry.sandbox) is not None and sandbox.id == sandbox_id:
                self._bury(entry)
                return True
        return False

    def fate(self, sandbox_id: str) -> Error | None:
        """Why a sandbox that is gone was killed, if that was for what its deployment did."""
        return self._fates.get(sandbox_id)

    async def close(self) -> None:
        """Stop everything, also what is just starting, and wait for it."""
        for entry in tuple(self._warm.values()):
            if not entry.start.done():
                entry.start.cancel()
        await asyncio.gather(*(entry.start for entry in self._warm.values()), return_exceptions=True)
        for entry in (*self._warm.values(), *self._leaving.values()):
            self._bury(entry)
        while self._stopping:
            await asyncio.wait(self._stopping)

    # ------------------------------------------------------------ inside

    def _standing(self, spec: SandboxSpec, avoid: str | None = None) -> _Entry | None:
        """The one that is there or is being started, unless it is dead or to be avoided."""
        entry = self._warm.get(spec)
        if entry is None or (sandbox := entry.sandbox) is None:
            return entry
        if sandbox.alive() and sandbox.id != avoid:
            return entry
        if sandbox.alive():
            self._retire([entry])
        else:
            self._bury(entry)
        return None

    async def _started_by(self, entry: _Entry, deadline: float) -> Sandbox:
        # The start belongs to all who wait for it: one whose worker dies or whose deadline is nearer leaves alone.
        async with asyncio.timeout(deadline - time.monotonic()):
            sandbox = await asyncio.shield(entry.start)
        entry.used = self._clock()
        return sandbox

    def _start(self, spec: SandboxSpec, deadline: float) -> _Entry:
        if len(self._warm) >= self._most:
            ready = [entry for entry in self._unkept() if entry.sandbox is not None]
            if ready:
                self._retire([min(ready, key=lambda entry: entry.used)])
        start = asyncio.create_task(self._opened(spec, deadline), name=f"open {spec.deployment} {spec.version}")
        entry = self._warm[spec] = _Entry(spec, start, self._clock())
        start.add_done_callback(lambda _: self._started(entry))
        return entry

    def _unkept(self) -> list[_Entry]:
        return [entry for entry in self._warm.values() if entry.spec not in self._kept]

    async def _opened(self, spec: SandboxSpec, deadline: float) -> Sandbox:
        return await self._open(spec, deadline)

    def _started(self, entry: _Entry) -> None:
        """Watch for the death of what has come up; forget what has not."""
        if (sandbox := entry.sandbox) is None:
            self._forget(entry)
            entry.over.set()
            return
        asyncio.get_running_loop().add_reader(sandbox.fileno(), self._bury, entry)

    def _retire(self, entries: Iterable[_Entry]) -> None:
        for entry in entries:
            self._forget(entry)
            if entry.sandbox is None:
                # Still starting: let those who wait have it; it goes when it was not used for a while.
                entry.start.add_done_callback(partial(self._leave, entry))
            else:
                self._leave(entry)

    def _leave(self, entry: _Entry, _: object = None) -> None:
        if (sandbox := entry.sandbox) is not None:
            self._leaving[sandbox.id] = entry
            sandbox.retire()
            self._leaves(sandbox.id)  # its zygote waits for the processes that the workers keep for next runs

    def _bury(self, entry: _Entry) -> None:
        """Forget a sandbox and free what it holds; whatever still lives in it is killed."""
        self._forget(entry)
        sandbox = entry.sandbox
        if sandbox is None or entry.buried:
            return
        entry.buried = True
        if sandbox.fate is not None:
            self._fates[sandbox.id] = sandbox.fate
            if len(self._fates) > FATES:
                del self._fates[next(iter(self._fates))]
        self._leaving.pop(sandbox.id, None)
        asyncio.get_running_loop().remove_reader(sandbox.fileno())
        self._gone(sandbox.id)
        task = asyncio.create_task(self._stop(entry, sandbox), name=f"stop {sandbox.id}")
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _stop(self, entry: _Entry, sandbox: Sandbox) -> None:
        try:
            await sandbox.stop()
        except OSError as error:
            log.warning("sandbox %s could not be freed whole: %s", sandbox.id, error)
        finally:
            entry.over.set()

    def _forget(self, entry: _Entry) -> None:
        if self._warm.get(entry.spec) is entry:
            del self._warm[entry.spec]
