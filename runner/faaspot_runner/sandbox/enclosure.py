"""A sandbox from the host's side: the launcher process that forks it, what goes into it, its cgroup and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import faaspot_runner
from faaspot_runner.agent import wire
from faaspot_runner.errors import FeatureMissing, SandboxError
from faaspot_runner.sandbox import seccomp
from faaspot_runner.sandbox.channel import DEATH_SECONDS
from faaspot_runner.sandbox.holdings import Holdings
from faaspot_runner.sandbox.launcher import Plan
from faaspot_runner.sandbox.log import open_pipe
from faaspot_runner.sandbox.messages import Broken, SetUpFailed, of_launch
from faaspot_runner.sandbox.namespaces import UidPair, UidPairs
from faaspot_runner.sandbox.pidfd import pid_of
from faaspot_runner.sandbox.spec import Interpreter

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


def boot(directory: str, module: str) -> str:
    """The program text that starts one of the agent's programs; it takes the directory off the path again."""
    return f"import sys; sys.path.insert(0, {directory!r}); from {module} import main; main()"


BOOT_AGENT = boot("/agent", "agent.__main__")
BOOT_COMMAND = boot("/agent", "agent.command")


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
            raise _failure(said.stage, said.errno, f"{said.stage}: {said.message}")
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
    """The launcher process of whoever makes sandboxes, started at the first use and again if it died."""

    def __init__(self) -> None:
        super().__init__()
        self._process: subprocess.Popen[bytes] | None = None
        self.pairs = UidPairs()

    def close(self) -> None:
        super().close()
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _ask(self, message: dict[str, Any], fds: Sequence[int]) -> tuple[dict[str, Any], list[int]] | None:
        self._socket = self._socket or self._start()
        try:
            return super()._ask(message, fds)
        except OSError:
            self.close()  # it died: a new one may do
            self._socket = self._start()
            return super()._ask(message, fds)

    def _start(self) -> socket.socket:
        """A process of its own, so that it is single-threaded and may fork. It sees none of our environment."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_LAUNCH_SECONDS)
        boot = (
            f"import os,sys; os.dup2({theirs.fileno()}, 3); sys.path.insert(0, {str(AGENT.parent.parent)!r}); "
            "from faaspot_runner.sandbox.launcher import main; main()"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-E", "-S", "-c", boot],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={},
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return ours


async def _undone(launching: asyncio.Future[tuple[int, int]]) -> None:
    """Let no sandbox come of a launch that nobody waits for any more."""
    got = (await asyncio.gather(launching, return_exceptions=True))[0]
    if not isinstance(got, BaseException):
        _, pidfd = got
        _kill(pidfd)
        await readable(pidfd, DEATH_SECONDS)
        os.close(pidfd)


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


@dataclass(kw_only=True)
class Enclosure:
    """A launched sandbox as the kernel sees it.

    `pid` (ours to know it by), `pidfd`: its holder, with which all in it dies. `control`: the channel to its program.
    `log`: read end of its output.
    """

    pid: int
    pidfd: int
    control: socket.socket
    log: int
    holdings: Holdings
    _stopped: asyncio.Future[None] | None = field(default=None, init=False)

    def alive(self) -> bool:
        """Whether its holder still lives."""
        return self._stopped is None and not _readable_now(self.pidfd)

    def kill(self) -> None:
        """SIGKILL to its holder: the kernel kills everything in its pid namespace."""
        _kill(self.pidfd)

    async def stop(self) -> None:
        """Kill, wait for the death, free everything. Harmless when repeated; all callers return at the end."""
        if self._stopped is None:
            self._stopped = asyncio.ensure_future(self._stop())
        await asyncio.shield(self._stopped)

    async def _stop(self) -> None:
        self.kill()
        dead = await readable(self.pidfd, DEATH_SECONDS)
        await self.holdings.release(dead)
        self.control.close()
        os.close(self.log)
        os.close(self.pidfd)


async def enclose(
    launcher: Launcher, plan: Plan, fds: Mapping[str, int], holdings: Holdings, start: dict[str, Any]
) -> Enclosure:
    """Launch a sandbox, put it into its cgroup, tell its program how to begin.

    Raises SandboxError, OSError; nothing of it lives then. For use while the holdings are `kept`.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as passed:
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.callback(control.close)
        passed.callback(theirs.close)
        control.setblocking(False)
        log, log_write = open_pipe()
        ours.callback(os.close, log)
        passed.callback(os.close, log_write)
        go, go_write = os.pipe2(os.O_CLOEXEC)
        passed.callback(wire.close, [go, go_write])
        own = {"control": theirs.fileno(), "log": log_write, "go": go}
        if holdings.lease is not None:
            own["net"] = holdings.lease.fd
        with _filters(plan.counted) as filters:
            pid, pidfd = await launcher.launch(plan, {**own, **filters, **fds})
        ours.pop_all()
        enclosure = Enclosure(pid=pid, pidfd=pidfd, control=control, log=log, holdings=holdings)
        await _begin(enclosure, go_write, start)
    return enclosure


async def _begin(enclosure: Enclosure, go: int, start: dict[str, Any]) -> None:
    """Let a sandbox that waits for it begin. Whatever it raises, the sandbox is stopped and its holdings free then."""
    try:
        if enclosure.holdings.group is not None:
            await asyncio.to_thread(enclosure.holdings.group.attach, enclosure.pid)
        wire.send(enclosure.control, {"op": "start", **start})
        os.write(go, b"g")
    except BaseException:
        await enclosure.stop()
        raise


@contextlib.contextmanager
def _filters(counted: bool) -> Iterator[dict[str, int]]:
    """Files with the seccomp programs of a sandbox."""
    with contextlib.ExitStack() as files:
        programs = seccomp.programs(counted=counted)
        yield {name: files.enter_context(memory_file(program)) for name, program in programs.items()}


def plan_for(
    python: Interpreter,
    *,
    program: str,
    pair: UidPair | None,
    environ: Mapping[str, str],
    rlimits: Sequence[tuple[int, int, int]],
    tmp_mb: int,
    counted: bool,
    environment: Path | None = None,
    binds: Sequence[tuple[str, str]] = (),
    more: Sequence[str] = (),
    resolv_conf: str | None = None,
) -> Plan:
    """The plan of a sandbox with this interpreter at /python, an environment at /env and the agent at /agent."""
    places = [*binds]
    links = {}
    files = {f"/agent/agent/{path.name}": path.read_text() for path in sorted(AGENT.glob("*.py"))}
    if resolv_conf is not None:
        files["/etc/resolv.conf"] = resolv_conf
    if python.system:
        links["/python"] = str(python.prefix)
    if python.prefix != Path("/usr"):
        places.append((str(python.prefix), str(python.prefix) if python.system else "/python"))
    if environment is not None:
        places.append((str(environment), "/env"))
    else:
        files["/env/pyvenv.cfg"] = f"home = {os.path.dirname(python.inside)}\ninclude-system-site-packages = false\n"
        for name in ("python", "python3", f"python{python.version}"):
            links[f"/env/bin/{name}"] = python.inside
    libraries = [] if python.system else [path.name for path in (python.prefix / "lib").glob("libpython*.so*")]
    places += _over_the_systems(python, libraries)
    return Plan(
        uid_map=pair.map() if pair else None,
        binds=[list(bind) for bind in places],
        files=files,
        links=links,
        tmp_mb=tmp_mb,
        argv=["/env/bin/python", "-I", "-c", program],
        environ=dict(environ),
        executable=python.inside,
        rlimits=[list(limit) for limit in rlimits],
        counted=counted,
        libraries=libraries,
        more=list(more),
    )


def _over_the_systems(python: Interpreter, libraries: Sequence[str]) -> list[tuple[str, str]]:
    """Binds of an interpreter's own libpython over the system's of the same name, which its loader would find first."""
    found = []
    for name in libraries:
        for path in (*Path("/usr/lib").glob(f"*/{name}"), Path("/usr/lib") / name, Path("/usr/lib64") / name):
            if path.is_file() and not path.is_symlink():
                found.append((str((python.prefix / "lib" / name).resolve()), str(path)))
    return found


def failed(message: Mapping[str, Any], log: str) -> SandboxError:
    """What a sandbox's set-up reported, as an exception: FeatureMissing if another attempt would fail as well."""
    stage, code, text = str(message["stage"]), message["errno"], str(message["error"]["message"])
    error = _failure(stage, code, text)
    error.log = log
    return error


def _failure(stage: str, code: int, text: str) -> SandboxError:
    if code in _LACKING and stage in WHAT_TO_DO:
        return FeatureMissing(stage, f"{WHAT_TO_DO[stage]} ({text})")
    return SandboxError(f"the sandbox could not be set up: {text}")


async def readable(fd: int, seconds: float) -> bool:
    """Whether the descriptor becomes readable within that time; without a thread."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    # A descriptor of our own: the caller may watch the same one already.
    watched = os.dup(fd)
    loop.add_reader(watched, _set, ready)
    try:
        await asyncio.wait_for(ready, max(0.0, seconds))
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(watched)
        os.close(watched)
    return True


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _readable_now(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


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
