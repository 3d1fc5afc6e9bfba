"""A run's process that was not killed when its run ended well: the next run of its deployment goes to it (`reuse`)."""

from __future__ import annotations

import os
import select
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass

from faaspot_runner.sandbox.cgroup_tree import RunSlot

LIVES = 10
"""How often a kept process may use up the processor time of one run; it is then replaced."""
DEATH_SECONDS = 1.0


@dataclass(slots=True, kw_only=True)
class Kept:
    """The process and what of it is ours: the run channel, the end of its log, its cgroup.

    `name`: the id of its first run, by which its zygote knows it. `cpu_ms`: processor time of its runs so far.
    """

    name: str
    pid: int
    pidfd: int
    result: socket.socket
    log: int
    slot: RunSlot | None
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
