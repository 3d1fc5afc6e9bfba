"""A client's channel to a zygote: bounded messages, and the deaths that are still to come on it."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence
from typing import Any

from faaspot_runner.agent import wire
from faaspot_runner.agent.wire import WireError

__all__ = ["DEATH_SECONDS", "Channel", "WireError"]

DEATH_SECONDS = 5.0
"""How long a process that got SIGKILL may take to die before it counts as stuck."""


class Channel:
    """One client's end. For one thread at a time; `run_once` uses it for one run after the other.

    A run is killed before `run_once` returns, its death comes a moment later: `settle` waits for it.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._dying: list[int] = []

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        """Close it; the zygote kills what runs of this client are left."""
        self.socket.close()
        wire.close(self._dying)
        self._dying.clear()

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message. Raises OSError, BlockingIOError too: a zygote that does not read is not waited for."""
        wire.send(self.socket, message, fds)

    def receive(self, most_fds: int = 0) -> tuple[dict[str, Any], list[int]] | None:
        """The next message, None at the end. Raises BlockingIOError if there is none yet, WireError, OSError."""
        try:
            return wire.receive(self.socket, most_fds)
        except ConnectionResetError:
            # The zygote has died and not read all; what it had said before still lies behind this error.
            return wire.receive(self.socket, most_fds)

    def dying(self, pidfd: int) -> None:
        """Take over the pidfd of a process that was sent SIGKILL."""
        self._dying.append(pidfd)

    def settle(self, seconds: float = DEATH_SECONDS) -> bool:
        """Wait for the deaths of the runs that were killed; False if one did not come in time: it is stuck.

        Give a run's slot back only after this.
        """
        end = time.monotonic() + seconds
        left = []
        for pidfd in self._dying:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if poll.poll(max(0.0, end - time.monotonic()) * 1000):
                os.close(pidfd)
            else:
                left.append(pidfd)
        self._dying = left
        return not left


def connect(channel: Channel) -> socket.socket:
    """Ask the zygote to serve one more client; the other end of what it gets. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            channel.send({"op": "connect"}, [theirs.fileno()])
        except OSError:
            ours.close()
            raise
    return ours
