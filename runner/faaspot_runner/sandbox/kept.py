"""A process that waits for a run: a fresh one that was asked for ahead, or with `reuse` one that has served before."""

from __future__ import annotations

import array
import fcntl
import os
import select
import signal
import socket
import termios
from contextlib import suppress
from dataclasses import dataclass

from faaspot_runner.sandbox.cgroup_tree import RunSlot

LIVES = 10
"""How often a kept process may use up the processor time of one run; it is then replaced."""
DEATH_SECONDS = 1.0


def unread(sock: socket.socket) -> bool:
    """Whether the other end has left anything of what was sent to it, or has died over it."""
    count = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, count)
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except ConnectionResetError:
        return True
    except OSError:
        return count[0] > 0
    return count[0] > 0


@dataclass(slots=True, kw_only=True)
class Kept:
    """The process and what of it is ours: the run channel, the end of its log, its cgroup.

    `name`: the id by which its zygote knows it, not that of its next run. `served`: it has run something; `cpu_ms`:
    processor time of its runs so far.
    """

    name: str
    pid: int
    pidfd: int
    result: socket.socket
    log: int
    slot: RunSlot | None
    served: bool = False
    cpu_ms: float = 0.0

    def idle(self) -> bool:
        """Whether it lives and is silent: what it has written since its last result is no answer to anything."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.register(self.result, select.POLLIN)
        return not poll.poll(0)

    def end(self) -> None:
        """Kill it with all of its pid namespace, and close what is ours. Its slot is the caller's to give back."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.poll(DEATH_SECONDS * 1000)
        self.result.close()
        os.close(self.log)
        os.close(self.pidfd)
