"""gunicorn as we run it: on an inherited socket, over TLS, dying as a whole, healthy without a Redis."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from faaspot_api.supervisor.directory import DataDirectory
from faaspot_api.supervisor.listener import listen
from faaspot_runner.contract import SPOTS, dump
from tests.control_plane import MAIN, a_spot
from tests.platforms import descendants, eventually
from tests.redis_servers import PASSWORD, running_redis
from tests.unit.api.test_supervisor_tls import write_pair

pytestmark = pytest.mark.slow
RPC = "/v1/deployments/hello/rpc/"


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

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPConnection:
        """A connection on which this was asked."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        said = {"Authorization": "Token the-token", **(headers or {})}
        connection.request(method, path, json.dumps(body or {}).encode(), said)
        return connection

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """The value of the answer."""
        with closing(self.send(method, path, body, headers)) as connection:
            return json.loads(connection.getresponse().read())

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


def test_waiting_callers_leave_threads_to_others_and_their_places_when_they_go(home: Path) -> None:
    bounds = {"FAASPOT_WEB_PROCESSES": "1", "FAASPOT_WEB_THREADS": "8"}  # six of them for who waits
    with running_redis() as redis, listen("127.0.0.1", 0) as listener:
        redis.client().hset(SPOTS, "127.0.0.1", dump(a_spot(last_seen=time.time() + 600)))
        where = {"FAASPOT_REDIS_URL": redis.url, "FAASPOT_REDIS_PASSWORD": PASSWORD}
        served = Served(home, listener, **where, **bounds)
        try:
            served.ask("PUT", "/v1/deployments/", {"name": "hello", "code": MAIN})
            callers = [served.send("POST", "/v1/sync/deployments/hello/rpc/", {}) for _ in range(12)]
            refused = eventually(lambda: len(found := answered(callers)) >= 6 and found, 20, "six are refused")
            answers = [caller.getresponse() for caller in refused]
            assert {(answer.status, answer.headers["Retry-After"]) for answer in answers} == {(429, "5")}
            begun = time.monotonic()
            assert served.get("/healthz") == 200
            assert time.monotonic() - begun < 5
            # A place is taken before the record is written; who was refused never has one.
            eventually(lambda: len(served.ask("GET", "/v1/executions/?status=Pending")) == 6, 20, "six have records")
            assert not set(answered(callers)) - set(refused), "the others wait"

            for caller in callers:
                caller.close()
            in_time = {"Prefer": "wait=0.1"}
            eventually(lambda: "uuid" in served.ask("POST", RPC, {}, in_time), 20, "a place is free again")
            pending = served.ask("GET", "/v1/executions/?status=Pending")
            assert len(pending) == 7, "the runs of those who went have gone on"
        finally:
            served.end()


def answered(callers: list[http.client.HTTPConnection]) -> list[http.client.HTTPConnection]:
    """Those to whom the server has said something."""
    return [caller for caller in callers if caller.sock and select.select([caller.sock], [], [], 0)[0]]


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
    environ |= {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}  # not to ourselves
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
