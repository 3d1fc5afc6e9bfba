"""A receiver of callbacks: a real HTTP server that remembers what it was told and answers as a test says."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Told:
    """One callback as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_signed_by(self, secret: str) -> bool:
        """Whether the signature is right, by the words of the Standard Webhooks document."""
        content = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.body
        key = base64.b64decode(secret.removeprefix("whsec_"))
        expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        return f"v1,{expected}" in self.headers["webhook-signature"].split(" ")


@dataclass
class Receiver:
    """`answer(n)`: the status of the nth callback, from 1; None: no answer until `go_on` is set."""

    answer: Callable[[int], int | None] = lambda _number: 204
    told: list[Told] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def of(self, execution: str) -> list[Told]:
        return [told for told in self.told if told.headers["webhook-id"] == execution]


@contextlib.contextmanager
def receiving(answer: Callable[[int], int | None] = lambda _number: 204, host: str = "127.0.0.1") -> Iterator[Receiver]:
    """A receiver on a free port."""
    receiver = Receiver(answer)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(length := int(self.headers["Content-Length"]))
            if len(body) < length:
                return  # its sender was killed in the middle of it
            headers = {name.lower(): value for name, value in self.headers.items()}
            with lock:
                receiver.told.append(Told(self.path, headers, body))
                number = len(receiver.told)
            status = receiver.answer(number)
            if status is None:
                receiver.go_on.wait(30)
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", receiver.url + "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name is the base's)
            """Nothing: the test looks at what was told."""

    server = ThreadingHTTPServer((host, 0), Handler)
    receiver.url = f"http://{host}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
