"""`fas spots join` over https, with a Redis that is not the platform's own: users made there, TLS to it, clear errors."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import platforms
from tests.certificates import write_pair
from tests.platforms import SETUPS, Platform, eventually
from tests.redis_sentinels import free_ports
from tests.redis_servers import PASSWORD, RedisServer, running_redis

IP, REDIS_IP = "127.0.0.9", "127.0.0.3"
OWN = "the-platforms-own"
"""Password of the platform's user in that Redis."""


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that every user may read."""
    made = Path(tempfile.mkdtemp(prefix="faaspot-e2e-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@contextlib.contextmanager
def tls_front(server: str, certificate: tuple[str, str], home: Path) -> Iterator[str]:
    """TLS in front of a Redis that has none, by the platform's own program; the URL of it."""
    environ = {"FAASPOT_CERTFILE": certificate[0], "FAASPOT_KEYFILE": certificate[1], "FAASPOT_REDIS_URL": server}
    with socket.create_server((REDIS_IP, 0)) as listener, (home / "front.log").open("w") as log:
        command = [sys.executable, "-m", "faaspot_api", "door", "--fd", str(listener.fileno())]
        front = subprocess.Popen(
            command, pass_fds=(listener.fileno(),), env={**os.environ, **environ}, stdout=log, stderr=log
        )
        try:
            yield f"rediss://{REDIS_IP}:{listener.getsockname()[1]}/0?ssl_ca_certs={certificate[0]}"
        finally:
            front.terminate()
            front.wait(20)


@dataclass(frozen=True)
class Joiner:
    """Runs `fas spots join`, as a person on another host would."""

    platform: Platform
    home: Path

    def start(self, *options: str, url: str = "") -> subprocess.Popen[str]:
        words = [self.platform.command, "spots", "join", url or self.platform.url, "--ip", IP]
        words += ["--token", self.platform.token, "--data-dir", str(self.home / "spot"), "--workers", "1", *options]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FAASPOT_")}
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=kept)

    def refused(self, *options: str, url: str = "") -> str:
        """What it says when it cannot join."""
        process = self.start(*options, url=url)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 2, said
        return said

    @contextlib.contextmanager
    def joined(self, *options: str) -> Iterator[None]:
        process = self.start(*options)
        try:
            eventually(self._online, 30, "the spot is online")
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=60)[1]
        assert process.returncode == 0, said

    def _online(self) -> bool:
        answer = self.platform.call("GET", f"spots/{IP}")
        return answer.status == 200 and answer.json["status"] == "online"


def allow(server: RedisServer, port: int, *rules: str) -> str:
    """Make the platform's own user in that Redis, by its administrator; the URL for the platform."""
    with server.client() as administrator:
        administrator.execute_command("ACL", "SETUSER", "faas", "reset", "on", f">{OWN}", "~*", "&*", "+@all", *rules)
    return f"redis://faas:{OWN}@127.0.0.1:{port}/0"


def test_over_https_with_a_redis_of_ones_own(home: Path) -> None:
    (port,) = free_ports(1)
    certificate = write_pair(home, addresses=("127.0.0.1", REDIS_IP))
    with running_redis(f"port {port}\nbind 127.0.0.1\n") as server:
        url = allow(server, port, "-acl")
        with tls_front(f"redis://127.0.0.1:{port}", certificate, home) as outside:
            environ = {"FAASPOT_REDIS_URL": url, "FAASPOT_SPOTS_REDIS_URL": outside, "FAASPOT_LOCAL_SPOTS": "0"}
            options = ("--certfile", certificate[0], "--keyfile", certificate[1])
            with platforms.platform(SETUPS[0], *options, environ=environ) as platform:
                check(Joiner(platform, home), server, port, certificate[0])


def check(joiner: Joiner, server: RedisServer, port: int, authority: str) -> None:
    """Each thing that is missing is told; then it joins and runs a function."""
    platform = joiner.platform
    assert "--certificate FILE" in joiner.refused()
    assert "cannot be used" in joiner.refused("--certificate", "/nowhere.pem")
    assert "cannot be reached" in joiner.refused(url=platform.url.replace("https:", "http:"))
    trust = ("--certificate", authority)
    assert "+acl" in joiner.refused(*trust), "the platform's user may make no users"
    allow(server, port)
    with joiner.joined(*trust):
        platform.deploy("hello", "def main(args, context):\n    return context['word']\n", context={"word": "told"})
        answer = platform.run("hello")
        assert answer.json == "told"
        assert platform.record(answer.headers["Execution-Id"])["spot"] == IP
    assert PASSWORD not in (joiner.home / "front.log").read_text()
