"""What both runtimes of ours share: wait for a zygote to have imported the user's module, then be its `Sandbox`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable

from faaspot_runner.agent import wire
from faaspot_runner.connectors.base import LOG_BYTES, Sandbox
from faaspot_runner.contract import Error, Reason, SandboxSpec
from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox.enclosure import Enclosure, failed
from faaspot_runner.sandbox.end import broken, signal_name
from faaspot_runner.sandbox.messages import Blank, Broken, Ended, ImportFailed, Ready, SetUpFailed, of_start
from faaspot_runner.sandbox.overrun import overrun

log = logging.getLogger(__name__)

FLOOD_PAUSE = 0.05
"""Seconds between two reads of a zygote's output when its limit is reached; one read takes at most 64 KB."""


class ZygoteSandbox(Sandbox):
    """A zygote in an enclosure. Keeps its output read for as long as it lives, so that it never waits for a reader."""

    def __init__(self, id: str, spec: SandboxSpec, enclosure: Enclosure, *, counted: bool) -> None:  # noqa: A002
        self.id = id
        self.spec = spec
        self.counted = counted
        self.start_ms = self.import_ms = 0.0
        self.imports = {}
        self._enclosure = enclosure
        self._loop = asyncio.get_running_loop()
        self._log = bytearray()
        self._event = asyncio.Event()
        self._watched = True
        self._channels = 0
        self._guard: asyncio.Task[None] | None = None
        self._said: Ready | Blank | ImportFailed | SetUpFailed | Ended | Broken | None = None
        self.on_stop: Callable[[], None] = lambda: None
        self._loop.add_reader(enclosure.log, self._drain)
        self._loop.add_reader(enclosure.control, self._hear)

    @property
    def log(self) -> str:  # type: ignore[override]
        return self._log.decode("utf-8", "replace")

    async def ready(self, deadline: float, started: float) -> None:
        """Return when the import is done. Whatever it raises, everything is stopped then.

        Raises SandboxError if the import is not done by `deadline`, if it failed, or if what came is no word about it:
        the user's import runs in the zygote's own process and can write on its channel. A `ready` that it forges is
        believed, which harms its deployment alone: the runs wait in vain for a zygote that does not fork.
        """
        try:
            said = await self._imported(deadline)
        except BaseException:
            await self.stop()
            raise
        took = (time.monotonic() - started) * 1000
        self.import_ms = min(said.import_ms, took)
        self.imports = said.imports
        self.start_ms = took - self.import_ms

    async def blank(self, deadline: float) -> None:
        """Return when the packages of one without code are imported. Raises as `ready` does, and stops everything."""
        try:
            await self._word(deadline)
            if not isinstance(self._said, Blank):
                raise self._why()
        except BaseException:
            await self.stop()
            raise

    def load(self, spec: SandboxSpec) -> None:
        """A blank becomes the sandbox of `spec`, whose code is where it looks now; `ready` follows. Raises OSError."""
        self.spec = spec
        self._said = None
        self._event.clear()
        self._loop.add_reader(self._enclosure.control, self._hear)
        wire.send(self._enclosure.control, {"op": "load"})

    async def _imported(self, deadline: float) -> Ready:
        await self._word(deadline)
        if isinstance(self._said, Ready):
            return self._said
        raise self._why()

    async def _word(self, deadline: float) -> None:
        """Wait until the zygote has said something. Raises SandboxError."""
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._event.wait()
        except TimeoutError:
            text = "the function's module was not imported in time"
            raise SandboxError(
                text, reason="timeout", error=Error(type="Timeout", message=text), log=self.log
            ) from None

    def guard(self, runs: int) -> None:
        """Watch the memory of all of it for as long as it lives, where no cgroup holds it. `runs`: the most at once.

        A container that is its alone is a cgroup, too; in one that it shares it must leave something to the others.
        """
        if not self.counted and self._enclosure.holdings.housing is None:
            self._guard = asyncio.ensure_future(self._keep_within(runs))

    async def _keep_within(self, runs: int) -> None:
        """Kill it when it takes too much, and `fate` then says so, or when that cannot be seen."""
        try:
            text = await overrun(self._enclosure.pid, self.spec.limits.memory, lambda: min(self._channels, runs))
        except Exception:
            log.exception("the memory of sandbox %s cannot be watched: it is killed", self.id)
            self._enclosure.kill()
            return
        if text is not None:
            self.fate = Error(type="OutOfMemory", message=text)
            self._enclosure.kill()

    def connect(self) -> socket.socket:
        self._channels += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                wire.send(self._enclosure.control, {"op": "connect"}, [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return ours

    def alive(self) -> bool:
        return self._enclosure.alive()

    def fileno(self) -> int:
        return self._enclosure.pidfd

    def retire(self) -> None:
        with contextlib.suppress(OSError):
            wire.send(self._enclosure.control, {"op": "retire"})

    async def stop(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._enclosure.log)
            self._loop.remove_reader(self._enclosure.control)
            if self._guard is not None:
                self._guard.cancel()
        try:
            await self._enclosure.stop()
        finally:
            self.on_stop()

    # ------------------------------------------------------------ inside out

    def _drain(self) -> None:
        try:
            data = os.read(self._enclosure.log, 65536)
        except BlockingIOError:
            return
        self._log += data[: LOG_BYTES - len(self._log)]
        if not data:
            self._loop.remove_reader(self._enclosure.log)
        elif len(self._log) >= LOG_BYTES:
            # What comes now is dropped, and no faster than this: a flood must not keep the spot busy.
            self._loop.remove_reader(self._enclosure.log)
            self._loop.call_later(FLOOD_PAUSE, self._resume)

    def _resume(self) -> None:
        if self._watched:
            self._loop.add_reader(self._enclosure.log, self._drain)

    def _hear(self) -> None:
        """The first message tells how the import went. More is not read: what ends later is seen by the pidfd."""
        try:
            if (got := wire.receive(self._enclosure.control)) is not None:
                self._said = of_start(got[0])
        except BlockingIOError:
            return
        except OSError:
            pass  # reset: it died, and is heard no more
        except wire.WireError as error:
            self._said = Broken(str(error))
        except Broken as error:
            self._said = error
        self._loop.remove_reader(self._enclosure.control)
        self._event.set()

    def _why(self) -> SandboxError:
        """What is told instead of an import that is done."""
        self._drain()
        if self.fate is not None:
            return SandboxError(self.fate.message, reason="oom", error=self.fate, log=self.log)
        match self._said:
            case ImportFailed(error=error):
                return SandboxError(error.message, reason="error", error=error, log=self.log)
            case SetUpFailed(stage=stage, errno=code, message=text):
                return failed({"stage": stage, "errno": code, "error": {"message": text}}, self.log)
            case Ended(status=status):
                return self._died(status)
            case Broken() | Ready() | Blank() as said:
                problem = said if isinstance(said, Broken) else Broken("what it says is not what it is asked for")
                end = broken(problem)
                return SandboxError(str(problem), reason="error", error=end.error, log=self.log)
        return SandboxError("the sandbox died while it was set up", log=self.log)

    def _died(self, status: int) -> SandboxError:
        """The zygote ended in the import without a word: a crash, a kill, `os._exit`."""
        if self._enclosure.holdings.oom_kills():
            reason: Reason = "oom"
            text = "the function's module took more memory than its limit while it was imported"
        elif os.WIFSIGNALED(status):
            reason = "signal"
            text = f"the import of the function's module died of {signal_name(os.WTERMSIG(status))}"
        else:
            reason = "error"
            text = f"the import of the function's module left the process with status {os.WEXITSTATUS(status)}"
        return SandboxError(text, reason=reason, error=Error(type="ImportDied", message=text), log=self.log)
