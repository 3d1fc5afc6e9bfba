"""Messages between agent and host: JSON objects with descriptors on SOCK_SEQPACKET, frames on a stream.

Both sides use this module, so both are bounded alike: a message is at most `MAX_MESSAGE` bytes, and descriptors that
the reader did not ask for are closed.
"""

from __future__ import annotations

import array
import json
import os
import socket

TYPE_CHECKING = False  # `typing` itself takes longer to import than all of ours
if TYPE_CHECKING:
    from typing import Any, Sequence

_encoded = json.JSONEncoder(separators=(",", ":")).encode
MAX_MESSAGE = 64 * 1024
HEADER = 4


class WireError(Exception):
    """The other side sent what is not a message of this wire."""


def send(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message. Raises OSError; never waits if the socket is non-blocking (BlockingIOError)."""
    data = _encoded(message).encode("ascii")
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket, most_fds: int = 0) -> tuple[dict[str, Any], list[int]] | None:
    """The next message with at most that many descriptors (close-on-exec), None at the end of the channel.

    Raises WireError for anything else, OSError of the socket.
    """
    # One descriptor's room is always there: the kernel refuses nothing, and what was not asked for is closed below.
    room = socket.CMSG_SPACE(max(most_fds, 1) * 4)
    data, ancillary, flags, _ = sock.recvmsg(MAX_MESSAGE, room, socket.MSG_CMSG_CLOEXEC)
    fds = _descriptors(ancillary)
    try:
        if not data and not fds:
            return None
        message = _message(data, flags)
    except WireError:
        close(fds)
        raise
    close(fds[most_fds:])
    return message, fds[:most_fds]


def close(fds: Sequence[int]) -> None:
    """Close all of them."""
    for fd in fds:
        os.close(fd)


def _message(data: bytes, flags: int) -> dict[str, Any]:
    if flags & socket.MSG_TRUNC:
        raise WireError("a message is longer than %d bytes" % MAX_MESSAGE)
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        raise WireError("a message is not JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise WireError("a message is not an object with an op")
    return message


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def frame(payload: bytes) -> bytes:
    """The payload with its length before it."""
    return header(len(payload)) + payload


def header(length: int) -> bytes:
    """What stands before a payload of that length."""
    return length.to_bytes(HEADER, "big")


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """That many bytes. Raises WireError if the stream ends before."""
    data = bytearray(size)
    read_into(sock, data)
    return bytes(data)


def read_into(sock: socket.socket, data: bytearray) -> None:
    """Fill `data` from the stream. Raises WireError if that ends before."""
    view = memoryview(data)
    while view:
        got = sock.recv_into(view)
        if not got:
            raise WireError("the stream ended inside a frame")
        view = view[got:]


def read_frame(sock: socket.socket) -> bytes:
    """One frame's payload; the agent's side, which trusts the length that the worker says."""
    return read_exactly(sock, int.from_bytes(read_exactly(sock, HEADER), "big"))
