"""What a run is sent: its request and, where they are too long for that, its args behind it.

Those go from their file into the run's channel inside the kernel: they never are in this process' memory.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import IO

_PIECE = 1024 * 1024
_PIECES = 16
"""Sent at most before others have their turn: a reader as quick as we are must not keep us from the clock."""


class Outgoing:
    """Bytes on their way into a socket that does not block."""

    def __init__(self, request: bytes, args: IO[bytes] | None = None) -> None:
        """`args`: a file that is sent whole after the request; it stays the caller's."""
        self._head = memoryview(request)
        self._file = args.fileno() if args is not None else -1
        self._size = self._left = os.fstat(self._file).st_size if args is not None else 0
        self._sent = 0

    def __bool__(self) -> bool:
        """Whether anything is left to be sent."""
        return bool(self._head or self._left)

    def send(self, sock: socket.socket) -> bool:
        """Send what the socket takes for now; True when everything is out, or nobody reads any more. Raises OSError."""
        try:
            for _ in range(_PIECES):
                if not self:
                    break
                self._send_piece(sock)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            self._head, self._left = memoryview(b""), 0  # its end is seen where the result is read
        return not self

    def is_read(self, sock: socket.socket) -> bool:
        """Whether the other end has surely begun to read: more is out than the socket could hold."""
        return self._sent > 2 * sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def _send_piece(self, sock: socket.socket) -> None:
        if self._head:
            sent = sock.send(self._head, socket.MSG_NOSIGNAL)
            self._head = self._head[sent:]
        else:
            sent = os.sendfile(sock.fileno(), self._file, self._size - self._left, min(self._left, _PIECE))
            if not sent:
                raise OSError(errno.EIO, "the file of the args ended before its end")
            self._left -= sent
        self._sent += sent
