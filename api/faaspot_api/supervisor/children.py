"""One child process: started, kept running, stopped.

All children are started from the main thread: the kernel's parent-death signal follows the *thread* that forked.
Each has a session of its own, so that a Ctrl-C reaches the supervisor alone, which then stops them in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from faaspot_api.supervisor import privileges
from faaspot_api.supervisor.logs import ChildLog, copy_lines
from faaspot_api.supervisor.privileges import Plan

REFUSED = 2
"""Exit status of a child that cannot work here and says why: starting it again would not help."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
STEADY_SECONDS = 10.0
"""Who has run this long starts again without a pause."""
EARLY_DEATHS = 3
"""Deaths before the platform was ever ready after which the start is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run. `uid` None: as we are; else confined to `needed` (see `privileges`). `descriptors` are inherited."""

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    uid: int | None = None
    needed: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()
    death_signal: int = signal.SIGKILL
    secret: str = field(default="", repr=False)
    """What the program reads from its standard input: neither an argument list nor an environment shows it."""

    def prepared(self) -> list[str]:
        """The command behind the small program that sets it up."""
        plan = Plan(parent=os.getpid(), death_signal=self.death_signal, uid=self.uid, needed=self.needed)
        return [sys.executable, "-I", "-S", privileges.__file__, plan.text(), *self.command]


class Child:
    """A program that is started again whenever it ends, until `stop`."""

    def __init__(self, program: Program, log: ChildLog, say: Callable[[str], None]) -> None:
        self.program = program
        self.log = log
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Gets the reason when the program seems never to work here; looked at while something waits for it."""
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._deaths = 0
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def start(self) -> None:
        """Start the program and keep it running in the background."""
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self, seconds: float, hasten: asyncio.Event) -> None:
        """SIGTERM, and SIGKILL after `seconds` or when `hasten` is set; returns when it is gone."""
        self._stopping.set()
        if self._keeper is None:
            return
        if not self._keeper.done():
            self._signal(signal.SIGTERM)
            hastened = asyncio.create_task(hasten.wait())
            await asyncio.wait({self._keeper, hastened}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            hastened.cancel()
            if not self._keeper.done():
                self._signal(signal.SIGKILL)
        await self._keeper

    async def run_to_end(self) -> int:
        """Run the program once; its exit status. Kills it when cancelled."""
        try:
            return await self._run_once()
        finally:
            self._signal(signal.SIGKILL)

    async def _keep(self) -> None:
        pause, loop = FIRST_PAUSE, asyncio.get_running_loop()
        while True:
            began = loop.time()
            status = await self._run_once()
            if self._stopping.is_set():
                return
            self._note_failure(status)
            pause = FIRST_PAUSE if loop.time() - began > STEADY_SECONDS else pause
            self._say(f"{self.program.name} {_how(status)}; it starts again in {pause:g} s (log: {self.log.path})")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
                return
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _run_once(self) -> int:
        """From start to end; the exit status, as `CANNOT_RUN` where there is no process at all."""
        try:
            self._process = await self._spawn()
        except OSError as error:
            self.log.write(f"cannot start {self.program.name}: {error}".encode())
            return privileges.CANNOT_RUN
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(self.program.secret.encode())
        self._process.stdin.close()
        copying = asyncio.create_task(copy_lines(self._process.stdout, self.log))
        try:
            status = await self._process.wait()
            # A grandchild may still hold the pipe: do not wait for it.
            await asyncio.wait({copying}, timeout=0.5)
        finally:
            copying.cancel()
        return status

    async def _spawn(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self.program.prepared(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(self.program.environ),
            pass_fds=self.program.descriptors,
            start_new_session=True,
            cwd="/",
        )

    def _note_failure(self, status: int) -> None:
        self._deaths += 1
        refused = status in (REFUSED, privileges.CANNOT_RUN)
        if not self.failed.done() and (refused or self._deaths >= EARLY_DEATHS):
            why = self.log.last[-1] if self.log.last else _how(status)
            self.failed.set_result(f"{self.program.name} does not start: {why}")

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def _how(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"
