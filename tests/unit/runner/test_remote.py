"""The API as a spot on another host sees it: what it says when it cannot be reached or trusted."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from faaspot_runner.remote import Api, RemoteError
from faaspot_runner.spot.join import CannotJoinError, joined
from tests.certificates import write_pair


class Handler(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b'{"message": "A valid token is required."}')

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[str]:
    """An API over https that takes no token; the certificate is cert.pem."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_pair(tmp_path))
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_the_api_answers_is_told(api: str, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="A valid token is required") as raised:
        Api(api, "t", str(tmp_path / "cert.pem")).join("10.0.0.2", "key")
    assert raised.value.status == 401


def test_a_certificate_that_nobody_knows_says_how_to_trust_it(api: str) -> None:
    with pytest.raises(RemoteError, match="--certificate FILE"):
        Api(api, "t").join("10.0.0.2", "key")


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_file_that_is_no_certificate_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "authority.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CannotJoinError, match=r"--certificate .*authority\.pem cannot be used"):
        joined(tmp_path, "https://127.0.0.1:1", "t", "10.0.0.2", str(path))
