"""Launchers that do as a test says, as one in a hostile image might, and a sandbox opened with one."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faaspot_runner.agent import wire
from faaspot_runner.connectors.placed import open_in
from faaspot_runner.connectors.zygote import ZygoteSandbox
from faaspot_runner.contract import Limits, SandboxSpec
from faaspot_runner.docker.container import Container
from faaspot_runner.docker.engine import Engine
from faaspot_runner.docker.image import Base
from faaspot_runner.docker.place import Place
from faaspot_runner.sandbox.holdings import Holdings
from faaspot_runner.sandbox.launchers import Launcher
from faaspot_runner.sandbox.spec import Interpreter, Material

Behave = Callable[[socket.socket], None]
TARGET = Interpreter(executable=Path("/usr/bin/python3"), prefix=Path("/usr"), version="3.11", full_version="3.11.2")


@dataclass
class Housing:
    """What a sandbox stands in; counts how often it was taken away."""

    removed: int = 0

    def oom_kills(self) -> int:
        return 0

    def remove(self) -> bool:
        self.removed += 1
        return True

    async def removal(self, call: Callable[[bool], None], dead: bool) -> None:
        call(dead)


@dataclass
class Group(Housing):
    """A cgroup that nothing gets into: it is not there."""

    leaf: Path | None = Path("/nowhere")
    tasks: list[Path] = field(default_factory=list)

    def attach(self, pid: int) -> None:
        raise FileNotFoundError(str(self.leaf))


@dataclass
class FakeLauncher:
    """A thread that reads each request and then behaves. `ended`: the spot has closed its end."""

    behave: Behave
    launcher: Launcher = field(init=False)
    ended: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.launcher = Launcher(ours)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def place(self) -> Place:
        """The place whose launcher it is."""
        base = Base(id="sha256:0", name="hostile", prefix="/usr", target=TARGET)
        return Place(container=Container(Engine("", {}), "0", os.getpid()), launcher=self.launcher, base=base)

    def close(self) -> None:
        self.launcher.close()
        with contextlib.suppress(OSError):
            self._theirs.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._theirs.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while (got := wire.receive(self._theirs, 16)) is not None:
                wire.close(got[1])
                self.behave(self._theirs)
        self.ended = True


def says(message: Any, *fds: int) -> Behave:
    """It answers with this message and these descriptors."""
    return lambda sock: wire.send(sock, message, fds)


def writes(data: bytes) -> Behave:
    """It answers with these bytes."""
    return lambda sock: sock.sendall(data)


async def opened(place: Place, holdings: Holdings) -> ZygoteSandbox:
    """A sandbox in that place. Raises SandboxError."""
    spec = SandboxSpec(
        version_id="v", deployment="d", version=1, runtime="docker", python="3.11", code="0", limits=Limits()
    )
    return await open_in(place, spec, Material(code=b"", python=TARGET), holdings, "rlimit")
