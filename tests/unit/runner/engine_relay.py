"""A Docker engine that can go away or hang: a socket that hands connections over to the real one while it is open."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

REAL = "/var/run/docker.sock"
METHODS = (b"GET ", b"POST ", b"PUT ", b"DELETE ", b"HEAD ")


class EngineRelay:
    """Open at `path` from the start; `close` and `open` it as the test likes.

    `hang`: it takes connections and what is said on them, and answers nothing until `resume`. `hanging` (a pattern):
    the same for those requests alone that it matches. `held`: how many wait so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held = 0
        self.hanging: re.Pattern[bytes] | None = None
        self._going = threading.Event()
        self._going.set()
        self._rescue: threading.Timer | None = None
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.open()

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def open(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._start(self._accept, self._listener)

    def close(self) -> None:
        """As an engine that dies: no connection is left, and nobody answers."""
        if self._listener is None:
            return
        self.resume()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._listener = None
        os.unlink(self.path)
        for each in self._connections:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._connections:
            each.close()
        self._connections.clear()
        self._threads.clear()

    def hang(self, requests: str = "", seconds: float = 30.0) -> None:
        """`seconds`: until it goes on by itself, so that a test that waits for it fails and does not hang with it."""
        self.hanging = re.compile(requests.encode())
        self._going.clear()
        self._rescue = threading.Timer(seconds, self.resume)
        self._rescue.daemon = True
        self._rescue.start()

    def resume(self) -> None:
        self._going.set()
        if self._rescue is not None:
            self._rescue.cancel()

    def _wait(self, data: bytes) -> None:
        """Here a request of those that hang stays until it may go on."""
        if not self._going.is_set() and self.hanging and data.startswith(METHODS) and self.hanging.search(data):
            self.held += 1
            self._going.wait()
            self.held -= 1

    def _start(self, work: Callable[..., None], *sockets: socket.socket) -> None:
        thread = threading.Thread(target=work, args=sockets, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(REAL)
            self._connections |= {near, far}
            for source, target in ((near, far), (far, near)):
                self._start(self._hand_over, source, target)

    def _hand_over(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._wait(data)
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
