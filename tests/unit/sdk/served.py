"""The real HTTP side of the platform, over services in memory, on a socket of this machine: what the clients talk to.

So the wire in these tests is the platform's own, and nothing here says what an answer looks like. `Rude` serves the
answers that the platform never gives: proxies, other services, dropped connections.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from werkzeug.serving import make_server

from faaspot_api.app import application
from tests.fake_services import ADMIN_TOKEN, FakeServices


@dataclass(frozen=True)
class Served:
    """A platform: its address, its admin token, and the services behind it."""

    url: str
    token: str
    services: FakeServices


@contextlib.contextmanager
def served() -> Iterator[Served]:
    """A platform that is gone afterwards."""
    services = FakeServices()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, application(services), threaded=True)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{server.port}", ADMIN_TOKEN, services)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def rude(*answers: bytes) -> Iterator[str]:
    """The address of a server that gives these raw answers, one a connection, and then hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=_answer, args=(listener, list(answers)))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _answer(listener: socket.socket, answers: list[bytes]) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                if answers:
                    connection.sendall(answers.pop(0))


def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write(folder: Path, name: str, text: str) -> Path:
    """A file with that text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
