"""Messages and frames between agent and host: what is sent arrives, what is not a message is refused."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator

import pytest

from faaspot_runner.agent import wire

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def send_raw(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_message_and_its_descriptors_arrive(pair: Pair) -> None:
    ours, theirs = pair
    read, write = os.pipe()
    wire.send(ours, {"op": "run", "id": "ü"}, [write])
    got = wire.receive(theirs, 1)
    assert got is not None
    message, (fd,) = got
    assert message == {"op": "run", "id": "ü"}
    assert not os.get_inheritable(fd)
    os.write(fd, b"x")
    assert os.read(read, 1) == b"x"
    wire.close([read, write, fd])


def test_the_end_of_the_channel_is_none(pair: Pair) -> None:
    ours, theirs = pair
    ours.close()
    assert wire.receive(theirs) is None


@pytest.mark.parametrize("asked", [0, 1])
def test_descriptors_that_were_not_asked_for_are_closed(pair: Pair, asked: int) -> None:
    ours, theirs = pair
    before = open_descriptors()
    wire.send(ours, {"op": "x"}, [0, 0, 0, 0, 0])
    got = wire.receive(theirs, asked)
    assert got is not None
    assert len(got[1]) == asked
    wire.close(got[1])
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"[]", b"{}", b'{"op": 1}', b"x", b"[" * 50_000, b'{"op":"' + b"x" * wire.MAX_MESSAGE + b'"}'],
    ids=["bytes", "list", "no op", "op no text", "no JSON", "deep", "long"],
)
def test_what_is_not_a_message_is_refused_and_holds_nothing(pair: Pair, data: bytes) -> None:
    ours, theirs = pair
    before = open_descriptors()
    send_raw(ours, data, [0, 0])
    with pytest.raises(wire.WireError):
        wire.receive(theirs, 2)
    assert open_descriptors() == before


def test_frames_carry_their_length() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(wire.frame(b"one") + wire.frame(b""))
        assert [wire.read_frame(theirs), wire.read_frame(theirs)] == [b"one", b""]
        ours.sendall(b"\0\0\0\5abc")
        ours.close()
        with pytest.raises(wire.WireError, match="ended inside"):
            wire.read_frame(theirs)
