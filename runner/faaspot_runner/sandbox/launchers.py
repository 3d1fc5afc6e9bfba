"""The way to a launcher process: started by us, or one that listens elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faaspot_runner
from faaspot_runner.agent import wire
from faaspot_runner.errors import FeatureMissing, SandboxError
from faaspot_runner.sandbox import base as bases
from faaspot_runner.sandbox.channel import DEATH_SECONDS
from faaspot_runner.sandbox.launcher import Plan
from faaspot_runner.sandbox.messages import Broken, SetUpFailed, of_launch
from faaspot_runner.sandbox.namespaces import UidPairs
from faaspot_runner.sandbox.pidfd import kill, pid_of, readable

log = logging.getLogger(__name__)

AGENT = Path(faaspot_runner.__file__).parent / "agent"
_LAUNCH_SECONDS = 10.0

WHAT_TO_DO = {
    "user namespace": "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
    "user.max_user_namespaces above 0; Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0)",
    "second user namespace": "allow user namespaces in user namespaces (sysctl user.max_user_namespaces well above 0)",
    "seccomp filter": "the kernel needs CONFIG_SECCOMP_FILTER",
    "bind mounts": "the kernel must be 5.12 or newer (open_tree, mount_setattr)",
    "cgroup namespace": "the kernel needs CONFIG_CGROUPS",
}
"""By stage of the set-up, for a refusal that another attempt will meet again."""
_LACKING = frozenset({1, 22, 28, 38, 87, 95})  # EPERM, EINVAL, ENOSPC, ENOSYS, EUSERS, EOPNOTSUPP


class Launcher:
    """The way to a launcher process that listens on a socket: one that runs in a container, say."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        self._socket = sock
        self._lock = asyncio.Lock()
        if sock is not None:
            sock.settimeout(_LAUNCH_SECONDS)

    @property
    def closed(self) -> bool:
        """Whether it was ended: it makes no sandbox any more, and those that it made are dead."""
        return self._socket is None

    async def launch(self, plan: Plan, fds: Mapping[str, int]) -> tuple[int, int]:
        """Pid and pidfd of the holder of a new sandbox, which waits for its go. Raises SandboxError, OSError.

        Cancelled, it still waits for the answer: that is nobody else's, and the descriptors are in use so long.
        """
        async with self._lock:
            launching = asyncio.ensure_future(asyncio.to_thread(self._launch, plan, fds))
            try:
                return await asyncio.shield(launching)
            except asyncio.CancelledError:
                await _undone(launching)
                raise

    def close(self) -> None:
        """End it, and every sandbox that it made. Harmless when repeated."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def _launch(self, plan: Plan, fds: Mapping[str, int]) -> tuple[int, int]:
        with memory_file(json.dumps(asdict(plan)).encode()) as text:
            named = {"plan": text, **fds}
            message, received = self._answer({"op": "launch", "fds": list(named)}, list(named.values()))
        try:
            return self._holder(message, received)
        except BaseException:
            wire.close(received)
            raise

    def _holder(self, message: Mapping[str, Any], received: Sequence[int]) -> tuple[int, int]:
        """Pid and pidfd out of an answer. Raises SandboxError; a launcher that breaks the wire is ended then."""
        try:
            said = of_launch(message)
        except Broken as error:
            self.close()
            raise SandboxError(f"the launcher process does not keep to its wire: {error}") from error
        if isinstance(said, SetUpFailed):
            raise failure(said.stage, said.errno, f"{said.stage}: {said.message}")
        # Of a deeper pid namespace than ours, or dead: a sandbox is killed by it, and that must never be us.
        pid = pid_of(received[0]) if received else None
        if not pid:
            raise SandboxError("the launcher process sent what is no process of a sandbox")
        return pid, received[0]

    def _answer(self, message: dict[str, Any], fds: Sequence[int]) -> tuple[dict[str, Any], list[int]]:
        """What it says to that. Answers have no number: if one is late, all that follow would be another's.

        So no answer is the end of this launcher. Raises SandboxError.
        """
        try:
            got = self._ask(message, fds)
        except (OSError, wire.WireError) as error:
            self.close()
            raise SandboxError(f"the launcher process gave no answer: {error}") from error
        if got is None:
            self.close()
            raise SandboxError("the launcher process died; the spot's log says why")
        return got

    def _ask(self, message: dict[str, Any], fds: Sequence[int]) -> tuple[dict[str, Any], list[int]] | None:
        if self._socket is None:
            raise SandboxError("the launcher is gone")
        wire.send(self._socket, message, fds)
        return wire.receive(self._socket, 1)


class LauncherProcess(Launcher):
    """The launcher process of whoever makes sandboxes, started at the first use and again if it died.

    `base`: it is to be that interpreter, for plans without a program; see `base_of`.
    """

    def __init__(self, pairs: UidPairs | None = None, base: bases.Base | None = None) -> None:
        super().__init__()
        self._process: subprocess.Popen[bytes] | None = None
        self._base = base
        self._starting = threading.Lock()
        self.pairs = pairs or UidPairs()

    @property
    def based(self) -> bool:
        """Whether it forks zygotes, as far as was seen; else each plan needs a program."""
        return self._base is not None

    def begin(self) -> None:
        """Start it now, so that the first who needs it need not wait. Harmless when it runs."""
        with self._starting:
            self._socket = self._socket or self._start()

    def _start(self) -> socket.socket:
        ours = self._spawned()
        if self._base is None or (why := _not_begun(ours)) is None:
            return ours
        log.warning("interpreters are started for each sandbox, because none can be forked here: %s", why)
        ours.close()
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._base = None
        return self._spawned()

    def close(self) -> None:
        super().close()
        if self._process is not None:
            self._process.kill()  # one that hangs would not see that its socket is closed
            self._process.wait()
            self._process = None

    def _ask(self, message: dict[str, Any], fds: Sequence[int]) -> tuple[dict[str, Any], list[int]] | None:
        self.begin()
        try:
            return super()._ask(message, fds)
        except OSError:
            self.close()  # it died: a new one may do
            self._socket = self._start()
            return super()._ask(message, fds)

    def _spawned(self) -> socket.socket:
        """A process of its own, so that it is single-threaded and may fork. It sees none of our environment."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_LAUNCH_SECONDS)
        boot = f"import os,sys; os.dup2({theirs.fileno()}, 3); sys.path.insert(0, {str(AGENT.parent.parent)!r}); "
        command = [sys.executable, "-E", "-S", "-c"]
        if self._base is None:
            command += [boot + "from faaspot_runner.sandbox.launcher import main; main()"]
        else:
            command += [boot + "from faaspot_runner.sandbox.base import stage; stage()", json.dumps(asdict(self._base))]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={},
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return ours


def _not_begun(base: socket.socket) -> str | None:
    """Why a base is none, None if it is one."""
    try:
        got = wire.receive(base)
    except (OSError, wire.WireError) as error:
        return str(error)
    if got is None:
        return "it ended without a word"
    return None if got[0]["op"] == "begun" else str(got[0].get("message"))


async def _undone(launching: asyncio.Future[tuple[int, int]]) -> None:
    """Let no sandbox come of a launch that nobody waits for any more."""
    got = (await asyncio.gather(launching, return_exceptions=True))[0]
    if not isinstance(got, BaseException):
        _, pidfd = got
        kill(pidfd)
        await readable(pidfd, DEATH_SECONDS)
        os.close(pidfd)


def failure(stage: str, code: int, text: str) -> SandboxError:
    """What did not work, as an exception: FeatureMissing where the kernel lacks what that stage takes."""
    if code in _LACKING and stage in WHAT_TO_DO:
        return FeatureMissing(stage, f"{WHAT_TO_DO[stage]} ({text})")
    return SandboxError(f"the sandbox could not be set up: {text}")


@contextlib.contextmanager
def memory_file(data: bytes) -> Any:
    """A descriptor of an anonymous file with these contents."""
    fd = os.memfd_create("faaspot", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        yield fd
    finally:
        os.close(fd)
