"""The hatch of a container: a directory of the spot's, seen inside at /run/faaspot, with the launcher's program and a
socket to which the launcher connects once. Then both are of no more use: the socket's name is taken away.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import tempfile
import zipfile
from pathlib import Path

import faaspot_runner
from faaspot_runner.docker.container import Container
from faaspot_runner.errors import SandboxError

INSIDE = "/run/faaspot"
PROGRAM = "launcher.zip"
SOCKET = "spot"
CONNECT_SECONDS = 20.0
LOOK_SECONDS = 0.5
_OF_THE_SANDBOX = ("__init__", "init", "launcher", "mounts", "namespaces", "syscalls")
_MODULES = ("__init__.py", *(f"sandbox/{name}.py" for name in _OF_THE_SANDBOX))


def pack(path: Path) -> None:
    """Write the launcher's program, as a zip file that an interpreter imports from."""
    source = Path(faaspot_runner.__file__).parent
    agent = [f"agent/{file.name}" for file in sorted((source / "agent").glob("*.py"))]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (*_MODULES, *agent):
            archive.writestr(f"faaspot_runner/{name}", (source / name).read_bytes())
    path.chmod(0o444)


def boot(inside: str) -> str:
    """The program text that makes an interpreter in a container its launcher; the hatch is at `inside`.

    It connects when all is imported: the hatch is gone afterwards.
    """
    return (
        f"import os, socket, sys; sys.path.insert(0, {inside + '/' + PROGRAM!r}); "
        "from faaspot_runner.sandbox.launcher import main; "
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); "
        f"s.connect({inside + '/' + SOCKET!r}); os.dup2(s.detach(), 3); main()"
    )


class Hatch:
    """One hatch, open for one container."""

    def __init__(self, directory: Path, program: Path) -> None:
        """A new hatch in `directory`, which nobody else can enter. Raises OSError."""
        self.path = Path(tempfile.mkdtemp(dir=directory))
        try:
            shutil.copy(program, self.path / PROGRAM)  # with its mode, whatever the umask is
            self._listener = _listen(self.path)
            self.path.chmod(0o711)
        except OSError:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    async def connected(self, container: Container, seconds: float) -> socket.socket:
        """The channel to the container's launcher. Raises SandboxError."""
        accepting = asyncio.create_task(self._accept(container))
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            while not accepting.done() and asyncio.get_running_loop().time() < deadline:
                await asyncio.wait([accepting], timeout=LOOK_SECONDS)
                if not accepting.done() and not (await container.engine.background(container.state))["Running"]:
                    break
            if accepting.done():
                return accepting.result()
        finally:
            accepting.cancel()
        words = await container.engine.background(container.last_words) or "It wrote nothing."
        raise SandboxError(f"The container's launcher did not report: {words}", reason="no_spot")

    async def _accept(self, container: Container) -> socket.socket:
        loop = asyncio.get_running_loop()
        while True:
            channel, _ = await loop.sock_accept(self._listener)
            pid, _, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if pid == container.pid:
                return channel
            channel.close()

    def close(self) -> None:
        """Take the directory away. Harmless when repeated."""
        self._listener.close()
        shutil.rmtree(self.path, ignore_errors=True)


def _listen(directory: Path) -> socket.socket:
    """By the directory's descriptor: its path may be longer than a socket's name can be."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(f"/proc/self/fd/{descriptor}/{SOCKET}")
        os.chmod(directory / SOCKET, 0o666)  # noqa: S103 (nobody else can enter the directory above)
        listener.listen(1)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    finally:
        os.close(descriptor)
    return listener
