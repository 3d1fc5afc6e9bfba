"""A spot on another host that was let in and means harm: what it can put on the platform's disk is bounded."""

from __future__ import annotations

import base64
import http.client
import os
import socket
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from faaspot_runner.contract.spots import MAX_ARCHIVE_BYTES
from tests.platforms import SETUPS, Answer, Platform, platform

MB = 1024 * 1024


class BadSpot:
    """Somebody at 10.9.9.9 with the token of a spot."""

    def __init__(self, running: Platform) -> None:
        self.platform = running
        key = base64.b64encode(os.urandom(32)).decode()
        answer = running.call("PUT", "join", {"ip": "10.9.9.9", "key": key})
        assert answer.status == 200, answer
        self.token = answer.json["token"]

    def bring(self, content: bytes, digest: str | None = None) -> Answer:
        digest = digest or sha256(content).hexdigest()
        return self.platform.call("PUT", f"blobs/{digest}", raw=content, token=self.token)

    def announce(self, *headers: tuple[str, str]) -> int:
        """The status for a body that is announced so, and never sent."""
        connection = http.client.HTTPConnection(self.platform.host, self.platform.port, timeout=30)
        try:
            connection.putrequest("PUT", f"/v1/blobs/{'0' * 64}")
            for name, value in (("Authorization", f"Token {self.token}"), *headers):
                connection.putheader(name, value)
            connection.endheaders()
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(scope="module")
def spot() -> Iterator[BadSpot]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {"FAASPOT_LOCAL_SPOTS": "0", "FAASPOT_MAX_ARCHIVES": "1"}
    with platform(SETUPS[-1], "--spots-listen", f"127.0.0.1:{port}", environ=environ) as running:
        yield BadSpot(running)


def kept(data: Path) -> int:
    """Bytes of all blobs, half-written ones too."""
    return sum(path.stat().st_size for path in (data / "blobs").rglob("*") if path.is_file())


def test_a_spot_fills_the_disk_up_to_its_share_and_no_further(spot: BadSpot) -> None:
    first = os.urandom(MB // 2)
    assert spot.bring(first).status == 200
    assert spot.bring(os.urandom(MB // 4), digest="0" * 64).status == 400
    assert spot.bring(os.urandom(MB // 2)).status == 200
    for size in (1, MB // 2, 8 * MB):
        answer = spot.bring(os.urandom(size))
        assert (answer.status, answer.json["error_code"]) == (413, "spot_storage_full")
        assert "FAASPOT_MAX_ARCHIVES" in answer.json["message"]
    assert spot.bring(first).status == 200, "what is there already takes no more room"
    assert kept(spot.platform.data) == MB


def test_a_body_without_a_bound_or_above_it_is_refused_before_it_comes(spot: BadSpot) -> None:
    assert spot.announce(("Content-Length", str(MAX_ARCHIVE_BYTES + 1))) == 413
    assert spot.announce(("Transfer-Encoding", "chunked")) == 400
    assert kept(spot.platform.data) <= MB


def test_its_token_opens_nothing_else(spot: BadSpot) -> None:
    for path in ("deployments/", "spots/", "tokens/"):
        assert spot.platform.call("GET", path, token=spot.token).status == 403, path
    assert spot.platform.call("GET", "executions/", token=spot.token).json == []
    assert spot.platform.call("GET", f"blobs/{'1' * 64}", token=spot.token).status == 404
    assert spot.platform.call("GET", "blobs/..%2f..%2fadmin-token", token=spot.token).status == 404
