"""gunicorn as we run it: on an inherited socket, over TLS, dying as a whole, healthy without a Redis."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faaspot_api.supervisor.directory import DataDirectory
from faaspot_api.supervisor.listener import listen
from tests.platforms import descendants, eventually
from tests.unit.api.test_supervisor_tls import write_pair

pytestmark = pytest.mark.slow


class Served:
    """A running server on `listener`."""

    def __init__(self, home: Path, listener: socket.socket, **settings: str) -> None:
        DataDirectory(path=home / "data", uid=None).path.mkdir(exist_ok=True)
        DataDirectory(path=home / "data", uid=None).furnish()
        self.tls = "FAASPOT_CERTFILE" in settings
        self.port = listener.getsockname()[1]
        self.log = (home / "log").open("a+")
        command = [sys.executable, "-P", "-m", "faaspot_api", "gunicorn", "--token-from-stdin"]
        self.process = subprocess.Popen(
            [*command, "--fd", str(listener.fileno())],
            pass_fds=(listener.fileno(),), stdin=subprocess.PIPE, stdout=self.log, stderr=self.log,
            env={**os.environ, "FAASPOT_DATA_DIR": str(home / "data"), **settings},
        )  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(b"the-token")
        self.process.stdin.close()

    def get(self, path: str, token: str = "") -> int:
        context = ssl._create_unverified_context()
        connection = (
            http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
            if self.tls
            else http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        )
        connection.request("GET", path, headers={"Authorization": f"Token {token}"} if token else {})
        status = connection.getresponse().status
        connection.close()
        return status

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="faaspot-tests-") as name:
        yield Path(name)


def test_it_migrates_knows_the_token_and_stops_when_told(home: Path) -> None:
    with listen("127.0.0.1", 0) as listener:
        served = Served(home, listener)
        try:
            assert served.get("/healthz") == 200
            assert served.get("/v1/deployments/") == 401
            assert served.get("/v1/deployments/", "the-token") == 200
            served.process.terminate()
            assert served.process.wait(20) == 0
        finally:
            served.end()


def test_a_killed_master_takes_its_web_processes_along_and_a_new_one_goes_on(home: Path) -> None:
    with listen("127.0.0.1", 0) as listener:
        first = Served(home, listener)
        try:
            assert first.get("/healthz") == 200
            pids = descendants(first.process.pid)
            assert len(pids) == 2
            os.kill(first.process.pid, signal.SIGKILL)
            first.process.wait()
            eventually(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], 5, "they are gone")
        finally:
            first.end()
        second = Served(home, listener)
        try:
            assert second.get("/v1/deployments/", "the-token") == 200
        finally:
            second.end()


def test_it_serves_tls(home: Path) -> None:
    cert, key = write_pair(home)
    with listen("127.0.0.1", 0) as listener:
        served = Served(home, listener, FAASPOT_CERTFILE=cert, FAASPOT_KEYFILE=key)
        try:
            assert served.get("/healthz") == 200
        finally:
            served.end()


def test_a_database_that_cannot_be_used_is_its_last_word_and_status_2(home: Path) -> None:
    with listen("127.0.0.1", 0) as listener:
        served = Served(home, listener, FAASPOT_DATABASE_URL="mysql://x/y")
        try:
            assert served.process.wait(30) == 2
            assert "mysql" in (home / "log").read_text().splitlines()[-1]
        finally:
            served.end()


def test_alone_it_listens_by_itself_answers_for_its_health_and_stops_when_told(home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environ = {**os.environ, "FAASPOT_DATA_DIR": str(home / "data"), "FAASPOT_PORT": port, "FAASPOT_HOST": "0.0.0.0"}
    own = [sys.executable, "-P", "-m", "faaspot_api"]
    asked = subprocess.run([*own, "health"], env=environ, capture_output=True, text=True)
    assert (asked.returncode, asked.stderr.count("refused")) == (1, 1)
    subprocess.run([*own, "prepare"], env={**environ, "FAASPOT_TOKEN": "the-token"}, check=True)
    with (home / "log").open("w") as log, subprocess.Popen([*own, "gunicorn"], env=environ, stderr=log) as server:
        try:
            eventually(lambda: subprocess.run([*own, "health"], env=environ, stderr=log).returncode == 0, 30, "healthy")
            second = subprocess.run([*own, "gunicorn"], env=environ, capture_output=True, text=True)
            assert second.returncode == 2
            assert f"port {port} on 0.0.0.0 is in use" in second.stderr
            server.terminate()
            assert server.wait(20) == 0, (home / "log").read_text()
        finally:
            server.kill()
