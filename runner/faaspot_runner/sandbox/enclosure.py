"""A sandbox from the host's side: the launcher process that forks it, what goes into it, its cgroup and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faaspot_runner.agent import wire
from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox import base as bases
from faaspot_runner.sandbox import seccomp
from faaspot_runner.sandbox.cgroup_tree import Group
from faaspot_runner.sandbox.channel import DEATH_SECONDS
from faaspot_runner.sandbox.holdings import Holdings
from faaspot_runner.sandbox.launcher import Plan
from faaspot_runner.sandbox.launchers import AGENT, Launcher, failure, memory_file
from faaspot_runner.sandbox.log import open_pipe
from faaspot_runner.sandbox.namespaces import UidPair
from faaspot_runner.sandbox.pidfd import kill, readable
from faaspot_runner.sandbox.spec import Interpreter


def boot(directory: str, module: str) -> str:
    """The program text that starts one of the agent's programs; it takes the directory off the path again."""
    return f"import sys; sys.path.insert(0, {directory!r}); from {module} import main; main()"


BOOT_AGENT = boot("/agent", "agent.__main__")
BOOT_COMMAND = boot("/agent", "agent.command")


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
        kill(self.pidfd)

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
        wire.send(control, {"op": "start", **start})
        own = {"control": theirs.fileno(), "log": log_write}
        if holdings.lease is not None:
            own["net"] = holdings.lease.fd
        own |= passed.enter_context(_filters(plan.counted)) | passed.enter_context(_ways_into(holdings.group))
        pid, pidfd = await launcher.launch(plan, {**own, **fds})
        ours.pop_all()
        return Enclosure(pid=pid, pidfd=pidfd, control=control, log=log, holdings=holdings)


@contextlib.contextmanager
def _filters(counted: bool) -> Iterator[dict[str, int]]:
    """Files with the seccomp programs of a sandbox."""
    with contextlib.ExitStack() as files:
        programs = seccomp.programs(counted=counted)
        yield {name: files.enter_context(memory_file(program)) for name, program in programs.items()}


@contextlib.contextmanager
def _ways_into(group: Group | None) -> Iterator[dict[str, int]]:
    """What a new sandbox comes into its cgroup by. Raises OSError."""
    found: dict[str, int] = {}
    try:
        if group is not None:
            if group.leaf is not None:
                found["leaf"] = os.open(group.leaf, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for number, path in enumerate(group.tasks):
                found[f"tasks:{number}"] = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        yield found
    finally:
        wire.close(list(found.values()))


def plan_for(
    python: Interpreter,
    *,
    program: str | None,
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
    """The plan of a sandbox with this interpreter at /python and an environment at /env.

    `program`: what it executes, with the agent at /agent; None for a launcher that is a base: its agent.
    """
    places, links, libraries = _interpreter_at_python(python)
    files: dict[str, str] = {}
    if program is not None:
        files |= {f"/agent/agent/{path.name}": path.read_text() for path in sorted(AGENT.glob("*.py"))}
    if resolv_conf is not None:
        files["/etc/resolv.conf"] = resolv_conf
    if environment is not None:
        places.append((str(environment), "/env"))
    else:
        files |= _EMPTY_ENVIRONMENT
        links |= _programs_of_env(python)
    return Plan(
        uid_map=pair.map() if pair else None,
        binds=[list(bind) for bind in (*places, *binds)],
        files=files,
        links=links,
        tmp_mb=tmp_mb,
        argv=[] if program is None else ["/env/bin/python", "-I", "-c", program],
        environ=dict(environ),
        executable=python.inside,
        rlimits=[list(limit) for limit in rlimits],
        counted=counted,
        libraries=libraries,
        more=list(more),
    )


def base_of(python: Interpreter, environ: Mapping[str, str], *, stack: int) -> bases.Base:
    """What makes a launcher the base of this interpreter's zygotes. `environ`: theirs; `stack`: see `Base`."""
    places, links, libraries = _interpreter_at_python(python)
    places.append((str(AGENT.parent), bases.PACKAGE))
    return bases.Base(
        binds=[list(bind) for bind in places],
        files={**_EMPTY_ENVIRONMENT, **bases.FILES},
        links={**links, **_programs_of_env(python)},
        libraries=libraries,
        environ=dict(environ),
        executable=python.inside,
        mapped=os.geteuid() == 0,
        stack=stack,
    )


_EMPTY_ENVIRONMENT = {"/env/pyvenv.cfg": "home = /python/bin\ninclude-system-site-packages = false\n"}


def _programs_of_env(python: Interpreter) -> dict[str, str]:
    return {f"/env/bin/{name}": python.inside for name in ("python", "python3", f"python{python.version}")}


def _interpreter_at_python(python: Interpreter) -> tuple[list[tuple[str, str]], dict[str, str], list[str]]:
    """The binds, links and libraries by which a root has this interpreter at /python."""
    places, links = [], {}
    if python.system:
        links["/python"] = str(python.prefix)
    if python.prefix != Path("/usr"):
        places.append((str(python.prefix), str(python.prefix) if python.system else "/python"))
    libraries = [] if python.system else [path.name for path in (python.prefix / "lib").glob("libpython*.so*")]
    return [*places, *_over_the_systems(python, libraries)], links, libraries


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
    error = failure(stage, code, text)
    error.log = log
    return error


def _readable_now(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
