"""What both runtimes of ours share: wait for a zygote to have imported the user's module, then be its `Sandbox`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from faaspot_runner.agent import wire
from faaspot_runner.connectors.base import LOG_BYTES, Sandbox
from faaspot_runner.contract import Error, Reason, SandboxSpec
from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox.enclosure import Enclosure, failed
from faaspot_runner.sandbox.end import signal_name
from faaspot_runner.sandbox.result import bounded_error

FLOOD_PAUSE = 0.05
"""Seconds between two reads of a zygote's output when its limit is reached; one read takes at most 64 KB."""


class ZygoteSandbox(Sandbox):
    """A zygote in an enclosure. Keeps its output read for as long as it lives, so that it never waits for a reader."""

    def __init__(self, id: str, spec: SandboxSpec, enclosure: Enclosure) -> None:  # noqa: A002 (the wire's word)
        self.id = id
        self.spec = spec
        self.start_ms = self.import_ms = 0.0
        self._enclosure = enclosure
        self._loop = asyncio.get_running_loop()
        self._log = bytearray()
        self._event = asyncio.Event()
        self._watched = True
        self._message: dict[str, Any] | None = None
        self.on_stop: Callable[[], None] = lambda: None
        self._loop.add_reader(enclosure.log, self._drain)
        self._loop.add_reader(enclosure.control, self._hear)

    @property
    def log(self) -> str:  # type: ignore[override]
        return self._log.decode("utf-8", "replace")

    async def ready(self, deadline: float, started: float) -> None:
        """Return when the import is done. Raises SandboxError and stops everything if it is not by `deadline`."""
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._event.wait()
        except TimeoutError:
            await self.stop()
            text = "the function's module was not imported in time"
            raise SandboxError(
                text, reason="timeout", error=Error(type="Timeout", message=text), log=self.log
            ) from None
        except asyncio.CancelledError:
            await self.stop()
            raise
        message = self._message
        if message is None or message["op"] != "ready":
            error = await self._why(message)
            await self.stop()
            raise error
        self.import_ms = float(message["import_ms"])
        self.start_ms = (time.monotonic() - started) * 1000 - self.import_ms

    def connect(self) -> socket.socket:
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
        await self._enclosure.stop()
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
            got = wire.receive(self._enclosure.control)
        except BlockingIOError:
            return
        except (OSError, wire.WireError):
            got = None
        self._loop.remove_reader(self._enclosure.control)
        self._message = got[0] if got else None
        self._event.set()

    async def _why(self, message: dict[str, Any] | None) -> SandboxError:
        self._drain()
        if message is None:
            return SandboxError("the sandbox died while it was set up", log=self.log)
        if message["op"] == "failed" and "stage" in message:
            return failed(message, self.log)
        if message["op"] == "failed":
            error = bounded_error(message.get("error"))
            return SandboxError(error.message, reason="error", error=error, log=self.log)
        return self._died(message.get("status"))

    def _died(self, said: Any) -> SandboxError:
        """The zygote ended in the import without a word: a crash, a kill, `os._exit`."""
        status = said if isinstance(said, int) else 0
        group = self._enclosure.holdings.group
        if group is not None and group.oom_kills():
            reason: Reason = "oom"
            text = "the function's module took more memory than its limit while it was imported"
        elif os.WIFSIGNALED(status):
            reason = "signal"
            text = f"the import of the function's module died of {signal_name(os.WTERMSIG(status))}"
        else:
            reason = "error"
            text = f"the import of the function's module left the process with status {os.WEXITSTATUS(status)}"
        return SandboxError(text, reason=reason, error=Error(type="ImportDied", message=text), log=self.log)
