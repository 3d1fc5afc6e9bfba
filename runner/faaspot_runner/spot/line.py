"""The spot's end of one worker's socket, on the event loop. The protocol is told in `runtimes/spot_socket.py`."""

from __future__ import annotations

import array
import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from faaspot_runner.runtimes.spot_socket import encode, receive

log = logging.getLogger(__name__)


class Line:
    """Hears a worker and answers it; nothing here waits for a worker that does not read."""

    def __init__(self, sock: socket.socket, hear: Callable[[dict[str, Any]], None]) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._hear = hear
        self._out: deque[tuple[bytes, socket.socket | None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)
        self._closed = False

    def send(self, message: dict[str, Any], channel: socket.socket | None = None) -> None:
        """Send a message, with a channel that is closed here afterwards. Nothing happens on a closed line."""
        if self._closed:
            if channel is not None:
                channel.close()
            return
        self._out.append((encode(message), channel))
        if len(self._out) == 1:
            self._writable()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for _, channel in self._out:
            if channel is not None:
                channel.close()
        self._out.clear()

    def _readable(self) -> None:
        try:
            received = receive(self._socket)
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("a worker's socket broke: %s", error)
            received = None
        if received is None:
            self.close()
            return
        message, fds = received
        for fd in fds:
            os.close(fd)
        self._hear(message)

    def _writable(self) -> None:
        while self._out:
            data, channel = self._out[0]
            rights = array.array("i", [channel.fileno()] if channel else [])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if channel else []
            try:
                self._socket.sendmsg([data], ancillary)
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._writable)
                return
            except OSError:
                self.close()  # the worker died; the crew hears of it by its process
                return
            self._out.popleft()
            if channel is not None:
                channel.close()
        self._loop.remove_writer(self._socket)
