"""A client's end of the zygote wire, and the runs that are still dying on it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from faaspot_runner.agent import wire
from faaspot_runner.sandbox.channel import Channel, connect


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with Channel(ours) as channel, theirs:
        yield channel, theirs


def fill(channel: Channel) -> None:
    for _ in range(100_000):
        channel.send({"op": "fill", "text": "x" * 1000})


def test_it_never_waits(ends: tuple[Channel, socket.socket]) -> None:
    channel, _ = ends
    with pytest.raises(BlockingIOError):
        channel.receive()
    with pytest.raises(BlockingIOError):
        fill(channel)


def test_what_a_dead_zygote_had_said_is_heard(ends: tuple[Channel, socket.socket]) -> None:
    channel, zygote = ends
    wire.send(zygote, {"op": "exited"})
    channel.send({"op": "run"})
    zygote.close()
    assert channel.receive() == ({"op": "exited"}, [])
    assert channel.receive() is None


def test_connect_gives_the_other_end_to_the_zygote(ends: tuple[Channel, socket.socket]) -> None:
    channel, zygote = ends
    with connect(channel) as ours:
        got = wire.receive(zygote, 1)
        assert got is not None
        message, (fd,) = got
        assert message == {"op": "connect"}
        with socket.socket(fileno=fd) as theirs:
            theirs.send(b"hi")
            assert ours.recv(10) == b"hi"


def test_settle_waits_for_the_death(ends: tuple[Channel, socket.socket]) -> None:
    channel, _ = ends
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pidfd = os.pidfd_open(process.pid)
    channel.dying(pidfd)
    assert channel.settle(0.01) is False
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert channel.settle(5) is True
    process.wait()
