"""What the contract suites run against: here the real HTTP server over fake services, on a port."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import fake_server
from tests.fake_server import FakePlatform


@pytest.fixture(scope="session")
def platform() -> Iterator[FakePlatform]:
    """Something with `host`, `port` and `token`; the end-to-end suite has one that is the whole platform."""
    with fake_server.running() as server:
        yield server
