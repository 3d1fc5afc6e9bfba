"""One running platform for each set-up (started as root, started by an ordinary user) for the end-to-end suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import platforms
from tests.platforms import SETUPS, Platform


@pytest.fixture(scope="session", params=SETUPS)
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    with platforms.platform(request.param) as running:
        yield running
