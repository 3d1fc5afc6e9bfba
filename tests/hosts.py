"""Hosts of their own on one machine: network namespaces joined by cables, whose ends can be pulled.

Nothing is mounted and nothing gets a name: a namespace lives as long as a process in it, and with it its cables.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Host:
    """A network namespace, held by the process `pid`."""

    pid: int

    def ip(self, *words: str) -> None:
        """`ip WORDS` inside."""
        subprocess.run(["nsenter", f"--net={self._path}", "ip", *words], check=True, capture_output=True, text=True)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and what it starts, is on this host within the block."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(here)
        finally:
            os.close(here)
            os.close(there)

    @property
    def _path(self) -> str:
        return f"/proc/{self.pid}/ns/net"


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts. The others are joined to the first, which is 10.77.N.1 to them; each is 10.77.N.2 itself."""
    with ExitStack() as stack:
        made = [stack.enter_context(_host()) for _ in range(count)]
        for number, host in enumerate(made[1:], 1):
            _join(made[0], host, number)
        yield made


def pull(first: Host, number: int) -> None:
    """Pull the cable of host `number` at the first host's end."""
    first.ip("link", "set", f"cable{number}", "down")


def plug(first: Host, number: int) -> None:
    """Put it in again."""
    first.ip("link", "set", f"cable{number}", "up")


@contextmanager
def _host() -> Iterator[Host]:
    command = "ip link set lo up && echo up && exec sleep 3600"
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", command], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        yield Host(holder.pid)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()


def _join(first: Host, other: Host, number: int) -> None:
    first.ip("link", "add", f"cable{number}", "type", "veth", "peer", "name", "cable", "netns", str(other.pid))
    first.ip("address", "add", f"10.77.{number}.1/24", "dev", f"cable{number}")
    other.ip("address", "add", f"10.77.{number}.2/24", "dev", "cable")
    first.ip("link", "set", f"cable{number}", "up")
    other.ip("link", "set", "cable", "up")


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
