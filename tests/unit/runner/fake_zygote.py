"""Zygotes that do as a test says: answer, hang, refuse, die, lie. Their runs are sleeping processes of the host."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from faaspot_runner.agent import wire

Behave = Callable[["Zygote", str, list[int]], None]


class Zygote:
    """A client's zygote: a thread that answers each `run` by `behave`; runs are sleeping processes of the host."""

    def __init__(self, behave: Behave) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.runs: list[subprocess.Popen[bytes]] = []
        self.kept: list[int] = []
        self.sent = 0
        self.behave = behave
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the test closes the socket under it
            while (received := wire.receive(self.ours, 8)) is not None:
                message, fds = received
                self.behave(self, message["id"], fds)

    def fork(self, name: str) -> None:
        run = subprocess.Popen(["sleep", "600"])
        self.runs.append(run)
        pidfd = os.pidfd_open(run.pid)
        wire.send(self.ours, {"op": "forked", "id": name}, [pidfd])
        os.close(pidfd)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a zygote that is gone already
            self.ours.shutdown(socket.SHUT_RDWR)
        self.ours.close()
        self.thread.join()
        wire.close(self.kept)
        for run in self.runs:
            run.kill()
            run.wait()


def answers(zygote: Zygote, name: str, fds: list[int]) -> None:
    """A run that succeeds."""
    zygote.fork(name)
    os.write(fds[0], wire.frame(b'{"ok":true,"output":"done"}'))
    wire.close(fds)


def hangs(zygote: Zygote, name: str, fds: list[int]) -> None:
    zygote.fork(name)
    os.write(fds[1], b"said\n")


def refuses(zygote: Zygote, name: str, fds: list[int]) -> None:
    wire.close(fds)
    wire.send(zygote.ours, {"op": "refused", "id": name, "errno": 11, "message": "no process left"})


def dies(zygote: Zygote, name: str, fds: list[int]) -> None:
    wire.close(fds)
    zygote.ours.shutdown(socket.SHUT_RDWR)


def dies_running(zygote: Zygote, name: str, fds: list[int]) -> None:
    zygote.fork(name)
    dies(zygote, name, fds)


def says(message: dict[str, Any], *, forked: bool = True) -> Behave:
    """A zygote that says this of its run, `forked` after it has told the truth about the fork."""

    def behave(zygote: Zygote, name: str, fds: list[int]) -> None:
        if forked:
            zygote.fork(name)
        with contextlib.suppress(OSError):  # it may have been given up meanwhile
            wire.send(zygote.ours, {"id": name, **message})
        wire.close(fds[1:])
        zygote.kept.append(fds[0])

    return behave
