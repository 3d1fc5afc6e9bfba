"""Runs one command in a throw-away sandbox: what a build needs."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faaspot_runner.agent import wire
from faaspot_runner.contract import Limits, Reason
from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox import seccomp
from faaspot_runner.sandbox.cgroups import Cgroups
from faaspot_runner.sandbox.enclosure import (
    BOOT_COMMAND,
    Enclosure,
    enclose,
    failed,
    plan_for,
)
from faaspot_runner.sandbox.end import signal_name
from faaspot_runner.sandbox.holdings import Holdings
from faaspot_runner.sandbox.launchers import LauncherProcess
from faaspot_runner.sandbox.limits import rlimits
from faaspot_runner.sandbox.log import RunLog
from faaspot_runner.sandbox.memory import SandboxWatch
from faaspot_runner.sandbox.namespaces import USER_INSIDE
from faaspot_runner.sandbox.run import POLL_MEMORY_SECONDS
from faaspot_runner.sandbox.spec import BASE_ENVIRON, Bind, Interpreter

OUR_PIDS = 8
"""Processes of ours in a command's group: init and relay."""
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """How a command ended. `reason`: None if it left with status 0, else timeout, oom, signal, limit or error.

    `log`: stdout and stderr, the first `log_limit` bytes, with a mark where it was cut. `code`: exit status, None if
    it died of a signal. `problem`: one line about what went wrong.
    """

    reason: Reason | None
    code: int | None
    log: str
    log_truncated: bool = False
    problem: str = ""


async def run_command(
    argv: Sequence[str],
    *,
    python: Interpreter,
    limits: Limits,
    timeout: float,
    binds: Sequence[Bind] = (),
    environment: Path | None = None,
    environ: dict[str, str] | None = None,
    output: int | None = None,
    output_limit: int = 0,
    relay: tuple[int, socket.socket] | None = None,
    cgroups: Cgroups | None = None,
    log_limit: int = 256 * 1024,
) -> CommandResult:
    """Run one command in a throw-away sandbox of profile `build`; all of it is dead when this returns.

    Inside: the system's directories, the interpreter at `/python`, `binds` (read-only), `environment` at `/env`, a
    writable /tmp of `limits.tmp` MB (also the working directory), no context, no network. uid 1000, no capabilities.

    `output`: a host descriptor (a regular file, opened by the caller) that gets what the command writes to its
    descriptor 3, at most `output_limit` bytes (beyond it: reason "limit"); a tar stream of what was built.
    `relay`: (port, SOCK_SEQPACKET socket). 127.0.0.1:port inside the sandbox listens, and every accepted connection
    comes out of the socket's other end as one message with one descriptor, an AF_INET stream socket: take it there by
    `accept_relayed`. The socket itself goes into the sandbox and stays the caller's to close.
    `environ`: variables beside PATH, HOME, TMPDIR, LANG, TZ.

    Raises SandboxError if no sandbox came up, FeatureMissing among them. Cancelled, it kills everything first.
    """
    everything = {**BASE_ENVIRON, **(environ or {})}
    start = {
        "argv": list(argv),
        "environ": everything,
        "uid": USER_INSIDE if os.geteuid() == 0 else None,
        "rlimits": rlimits(limits, "cgroup" if cgroups else "rlimit"),
        "filter": seccomp.run_filter().hex(),
        "relay": relay[0] if relay else None,
    }
    launcher = LauncherProcess()
    sink, sink_write = os.pipe2(os.O_CLOEXEC)
    try:
        holdings = await asyncio.to_thread(_hold, launcher, limits, cgroups)
        async with holdings.kept():
            plan = plan_for(
                python,
                program=BOOT_COMMAND,
                pair=holdings.pair,
                environ=everything,
                rlimits=[],
                tmp_mb=limits.tmp,
                counted=cgroups is not None,
                environment=environment,
                binds=[(str(bind.source), bind.target) for bind in binds],
                more=["output", "relay"] if relay else ["output"],
            )
            fds = {"output": sink_write}
            if relay:
                fds["relay"] = relay[1].fileno()
            enclosure = await enclose(launcher, plan, fds, holdings, start)
        os.close(sink_write)
        sink_write = -1
        command = _Command(enclosure, sink, output, output_limit, log_limit)
        try:
            return await command.result(limits, timeout)
        finally:
            await command.stop()
    finally:
        os.close(sink)
        if sink_write >= 0:
            os.close(sink_write)
        await asyncio.to_thread(launcher.close)


def _hold(launcher: LauncherProcess, limits: Limits, cgroups: Cgroups | None) -> Holdings:
    held = Holdings()
    try:
        if os.geteuid() == 0:
            held.pair = launcher.pairs.acquire()
        if cgroups is not None:
            held.group = cgroups.sandbox_group(
                "b" + uuid.uuid4().hex, memory_mb=limits.memory, pids=limits.pids + OUR_PIDS
            )
    except OSError as error:
        held.free()
        raise SandboxError(f"no room for a sandbox: {error}") from error
    return held


class _Command:
    """A command under way: its log, its output, its end."""

    def __init__(self, enclosure: Enclosure, sink: int, output: int | None, output_limit: int, log_limit: int) -> None:
        self._enclosure = enclosure
        self._log = RunLog(log_limit, read_end=enclosure.log)
        self._sink, self._output, self._left = sink, output, output_limit
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        os.set_blocking(sink, False)
        self._readers = {enclosure.log: self._drain, sink: self._copy, enclosure.control.fileno(): self._hear}
        for fd, reader in self._readers.items():
            self._loop.add_reader(fd, reader)

    async def result(self, limits: Limits, seconds: float) -> CommandResult:
        """How it ended. Raises SandboxError if it never began."""
        counted = self._enclosure.holdings.group is not None
        watch = None if counted else asyncio.ensure_future(self._watch_memory(limits.memory))
        try:
            async with asyncio.timeout(seconds):
                message = await asyncio.shield(self._end)
        except TimeoutError:
            message = _ended("timeout", f"it took longer than {seconds:.0f} s")
        finally:
            if watch is not None:
                watch.cancel()
        self._enclosure.kill()
        self._drain()
        if message.get("reason") is None:
            while self._copy():
                pass
            # The last of the output may have been too much.
            message = self._end.result() if self._left >= 0 else _ended("limit", "its output is larger than the limit")
        return self._judged(message)

    async def stop(self) -> None:
        """Everything of it is dead and freed afterwards."""
        for fd in list(self._readers):
            self._forget(fd)
        self._log.close_sink()
        await self._enclosure.stop()

    # ------------------------------------------------------------ what comes from inside

    def _forget(self, fd: int) -> None:
        if self._readers.pop(fd, None) is not None:
            self._loop.remove_reader(fd)

    def _finish(self, message: dict[str, Any]) -> None:
        if not self._end.done():
            self._end.set_result(message)

    def _drain(self) -> None:
        if not self._log.drain():
            self._forget(self._enclosure.log)

    def _copy(self) -> bool:
        """Pass a piece of the output on. False when there is none for now, or none any more."""
        try:
            data = os.read(self._sink, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._forget(self._sink)
            return False
        self._left -= len(data)
        if self._left < 0 or self._output is None:
            self._finish(_ended("limit", "its output is larger than the limit"))
            return False
        view = memoryview(data)
        while view:
            view = view[os.write(self._output, view) :]
        return True

    def _hear(self) -> None:
        try:
            got = wire.receive(self._enclosure.control)
        except BlockingIOError:
            return
        except (OSError, wire.WireError):
            got = None
        if got is None:
            self._forget(self._enclosure.control.fileno())
            self._finish(_ended("signal", "its sandbox died"))
        elif got[0]["op"] in ("ended", "failed"):
            self._finish(got[0])

    async def _watch_memory(self, limit_mb: int) -> None:
        """End it when it takes too much; where no cgroup counts it."""
        with SandboxWatch(self._enclosure.pid) as watch:
            while watch.charged_mb(limit_mb) <= limit_mb:
                await asyncio.sleep(POLL_MEMORY_SECONDS)
        self._finish(_ended("oom", f"it took more memory than {limit_mb} MB"))

    def _judged(self, message: dict[str, Any]) -> CommandResult:
        log, cut = self._log.text()
        if message["op"] == "failed":
            raise failed(message, log)
        reason, problem, code = message.get("reason"), message.get("message", ""), None
        if message["op"] == "ended" and "status" in message:
            status = int(message["status"])
            code = os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else None
            reason, problem = self._of_status(status, code)
        return CommandResult(reason=reason, code=code, log=log, log_truncated=cut, problem=problem)

    def _of_status(self, status: int, code: int | None) -> tuple[Reason | None, str]:
        if code == 0:
            return None, ""
        group = self._enclosure.holdings.group
        if group is not None and group.oom_kills():
            return "oom", "it took more memory than its limit"
        if code is None:
            return "signal", f"it died of {signal_name(os.WTERMSIG(status))}"
        return "error", f"it left with exit status {code}"


def _ended(reason: Reason, message: str) -> dict[str, Any]:
    return {"op": "stopped", "reason": reason, "message": message}


def accept_relayed(relay: socket.socket) -> socket.socket | None:
    """The next connection that a sandboxed command made to its relay port, None when there will be no more. Blocks.

    What is not a TCP socket is closed and skipped: the sender is untrusted.
    """
    while True:
        try:
            got = wire.receive(relay, 1)
        except wire.WireError:
            continue
        except OSError:
            return None
        if got is None:
            return None
        for fd in got[1]:
            connection = _tcp(fd)
            if connection is not None:
                return connection


def _tcp(fd: int) -> socket.socket | None:
    try:
        connection = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None
    if connection.family == socket.AF_INET and connection.type == socket.SOCK_STREAM:
        return connection
    connection.close()
    return None
