"""B4 and B18 on the wire: what the real HTTP server does with bytes that no client library would send."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from faaspot_api.http import gateway
from tests import fake_server
from tests.certificates import write_pair
from tests.fake_server import FakePlatform

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[FakePlatform]:
    with fake_server.running() as running:
        yield running


def head(server: FakePlatform, line: str = "POST /v1/deployments/hello/rpc/ HTTP/1.1") -> bytes:
    return f"{line}\r\nHost: x\r\nAuthorization: Token {server.token}\r\n".encode()


def send(server: FakePlatform, *pieces: bytes, seconds: float = 20) -> bytes:
    """All that the server says until it closes, or is silent after an answer."""
    with socket.create_connection((server.host, server.port), timeout=seconds) as connection:
        with contextlib.suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
        received = b""
        with contextlib.suppress(OSError):
            while piece := connection.recv(65536):
                received += piece
        return received


def memory(server: FakePlatform) -> int:
    """kB of resident memory that the server's web process has had at most."""
    status = Path(f"/proc/{server.web()}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


FRAMINGS = {
    "TE and CL": "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    "two lengths": "Content-Length: 2\r\nContent-Length: 3\r\n",
    "chunked, identity": "Transfer-Encoding: chunked, identity\r\n",
    "unknown coding": "Transfer-Encoding: xchunked\r\n",
    "space before the colon": "Content-Length : 2\r\n",
    "folded line": "Content-Length: 2\r\n folded\r\n",
    "bare LF": "X: y\nContent-Length: 2\r\n",
    "plus sign": "Content-Length: +2\r\n",
    "no number": "Content-Length: two\r\n",
    "NUL": "X: a\0b\r\n",
    "no name": ": x\r\n",
}


@pytest.mark.parametrize("kind", FRAMINGS)
def test_b18_ambiguous_framing_is_refused_in_the_one_shape_and_closed(server: FakePlatform, kind: str) -> None:
    smuggled = b"GET /v1/deployments/ HTTP/1.1\r\nHost: x\r\n\r\n"
    said = send(server, head(server) + FRAMINGS[kind].encode() + b"\r\n0\r\n\r\n{}" + smuggled)
    assert said.split(b" ")[1][:1] in (b"4", b"5"), said
    assert said.count(b"HTTP/1.1 ") == 1, said
    assert b"<html" not in said.lower()
    assert b'"error_code"' in said


@pytest.mark.parametrize(
    "line", ["GARBAGE", "GET /v1/deployments/ HTTP/9.9", "GET", "G\0T / HTTP/1.1", "GET /" + "x" * 9000 + " HTTP/1.1"]
)
def test_a_request_line_that_is_none_is_refused_in_the_one_shape(server: FakePlatform, line: str) -> None:
    said = send(server, head(server, line) + b"\r\n")
    assert said.split(b" ")[1][:1] in (b"4", b"5"), said
    assert b"<html" not in said.lower()
    assert b'"error_code"' in said


def test_b4_a_claimed_length_over_the_limit_is_a_413_at_once(server: FakePlatform) -> None:
    said = send(server, head(server) + b"Content-Length: 100000000000\r\n\r\n", b"x" * 1000)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"too_large" in said


def test_b4_a_client_that_sends_all_of_it_first_still_hears_the_413(server: FakePlatform) -> None:
    size = 100 * 1024 * 1024
    request = urllib.request.Request(f"{server.url}/v1/deployments/", b"x" * size, method="PUT")
    request.add_header("Authorization", f"Token {server.token}")
    before = memory(server)

    with pytest.raises(urllib.error.HTTPError, match="413") as caught:
        urllib.request.urlopen(request)

    assert b"too_large" in caught.value.read()
    caught.value.close()
    assert memory(server) - before < 10_000


def test_b4_an_endless_chunked_body_is_a_413_and_memory_stays_flat(server: FakePlatform) -> None:
    send(server, head(server) + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}")
    before = memory(server)
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    said = send(
        server, head(server, "PATCH /v1/spots/ HTTP/1.1") + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 200
    )
    assert said.startswith(b"HTTP/1.1 413 ")
    assert memory(server) - before < 50_000


def test_a_body_without_a_token_is_not_read(server: FakePlatform) -> None:
    line = b"POST /v1/deployments/hello/rpc/ HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n"
    assert send(server, line, seconds=1).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("chunks", [b"5\r\n{}\r\n0\r\n\r\n", b"zz\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n"])
def test_broken_chunks_are_a_400_in_the_one_shape(server: FakePlatform, chunks: bytes) -> None:
    said = send(server, head(server) + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert said == b"" or said.startswith(b"HTTP/1.1 400 "), said
    assert b"<html" not in said.lower()


def test_b17_a_request_that_stops_in_its_middle_holds_its_thread_for_seconds(server: FakePlatform) -> None:
    began = time.monotonic()
    body = head(server) + b"Content-Length: 2\r\n\r\n{"
    with ThreadPoolExecutor(2) as threads:
        said = list(threads.map(lambda data: send(server, data, seconds=30), (head(server), body)))
    assert said[0] == b""
    assert said[1].startswith(b"HTTP/1.1 400 ")
    assert gateway.NEXT_BYTE_SECONDS <= time.monotonic() - began < gateway.NEXT_BYTE_SECONDS + 5


@pytest.mark.parametrize("stops", ["in the handshake", "in its headers"])
def test_b17_neither_does_one_over_tls(tmp_path: Path, stops: str, capfd: pytest.CaptureFixture[str]) -> None:
    with fake_server.running(write_pair(tmp_path)) as server:
        context = ssl.create_default_context(cafile=tmp_path / "cert.pem")
        context.check_hostname = False
        began = time.monotonic()
        with socket.create_connection((server.host, server.port), timeout=30) as plain:
            if stops == "in the handshake":
                plain.sendall(b"\x16")
                rest = plain.recv(1)
            else:
                with context.wrap_socket(plain) as secured:
                    secured.sendall(head(server))
                    rest = secured.recv(1)
        assert rest == b""
        assert gateway.NEXT_BYTE_SECONDS <= time.monotonic() - began < gateway.NEXT_BYTE_SECONDS + 5
        with urllib.request.urlopen(f"https://127.0.0.1:{server.port}/healthz", context=context) as answer:
            assert answer.status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_chunked_body_is_read(server: FakePlatform) -> None:
    said = send(
        server,
        head(server, "PATCH /v1/spots/ HTTP/1.1") + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        b'10\r\n{"min_workers": \r\n2\r\n3}\r\n0\r\n\r\n',
    )
    assert said.startswith(b"HTTP/1.1 200 "), said
