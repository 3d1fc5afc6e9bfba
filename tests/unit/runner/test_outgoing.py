"""A request and large args on their way into a socket: in order, whole, a bounded part at a time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from faaspot_runner.sandbox.outgoing import _PIECE, _PIECES, Outgoing

ARGS = os.urandom(1 << 20) * 3


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "args"
    path.write_bytes(ARGS)
    return path


def test_all_comes_in_order_as_the_reader_takes_it(ends: tuple[socket.socket, socket.socket], file: Path) -> None:
    ours, theirs = ends
    received = b""
    with file.open("rb") as args:
        outgoing = Outgoing(b"request", args)
        assert not outgoing.send(ours), "the socket does not hold it all"
        assert not outgoing.is_read(ours)
        while len(received) < len(ARGS) + 7:
            received += theirs.recv(1 << 20)
            outgoing.send(ours)
        assert outgoing.send(ours)
        assert outgoing.is_read(ours)
    assert received == b"request" + ARGS
    assert not outgoing


def test_a_quick_reader_does_not_keep_it_busy(file: Path) -> None:
    file.write_bytes(b"x" * (_PIECE * (_PIECES + 1)))
    with file.open("rb") as args, open("/dev/null", "wb") as null:

        class Sink:
            def fileno(self) -> int:
                return null.fileno()

        assert not Outgoing(b"", args).send(Sink()), "others have their turn"  # type: ignore[arg-type]


def test_who_reads_no_more_gets_no_more(ends: tuple[socket.socket, socket.socket], file: Path) -> None:
    ours, theirs = ends
    theirs.close()
    with file.open("rb") as args:
        for outgoing in (Outgoing(b"request"), Outgoing(b"", args)):
            assert outgoing.send(ours)
            assert not outgoing


def test_a_file_that_became_shorter_is_an_error_and_not_a_wait(
    ends: tuple[socket.socket, socket.socket], file: Path
) -> None:
    with file.open("rb") as args:
        outgoing = Outgoing(b"", args)
        os.truncate(file, 0)
        with pytest.raises(OSError, match="ended before its end"):
            outgoing.send(ends[0])
