"""What the runner's tests share: a real server, directories that are short enough for its socket."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.unit.runner.network_world import tool, world
from tests.unit.runner.valkey import Valkey

__all__ = ["tool", "world"]


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name; pytest's own are too long for that."""
    path = Path(tempfile.mkdtemp(prefix="fs-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def _server() -> Iterator[Valkey]:
    path = Path(tempfile.mkdtemp(prefix="fs-"))
    server = Valkey(path)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(path)


@pytest.fixture
def valkey(_server: Valkey) -> Valkey:
    """A server without any keys; tests that kill or freeze one start their own."""
    with _server.client() as client:
        client.flushall()
    return _server


@pytest.fixture
def client(valkey: Valkey) -> Iterator[redis.Redis]:
    with valkey.client() as client:
        yield client
