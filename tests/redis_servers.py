"""A real, private Redis for a test, by the platform's own `embedded` module."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import redis

from faaspot_api.queue import embedded
from faaspot_api.queue.clients import answers, open_client
from faaspot_api.queue.embedded import Embedded
from tests.platforms import eventually

PASSWORD = "test-password"


class RedisServer:
    """A running server; `restart` keeps its data."""

    def __init__(self, prepared: Embedded) -> None:
        self.prepared = prepared
        self.process = self._start()

    @property
    def url(self) -> str:
        return self.prepared.url

    def client(self, password: str = PASSWORD) -> redis.Redis:
        return open_client(self.url, password)

    def restart(self) -> None:
        self.stop()
        self.process = self._start()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self.prepared.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: answers(self.url, PASSWORD), 10, "Redis answers")
        return process


@contextlib.contextmanager
def running_redis(more: str = "") -> Iterator[RedisServer]:
    """A server in a directory of its own that is gone afterwards; `more`: further lines of configuration."""
    home = Path(tempfile.mkdtemp(prefix="faaspot-tests-redis-"))
    prepared = embedded.prepare(home / "redis", PASSWORD)
    with prepared.configuration.open("a") as file:
        file.write(more)
    server = RedisServer(prepared)
    try:
        yield server
    finally:
        server.stop()
        embedded.forget(prepared)
        shutil.rmtree(home)
