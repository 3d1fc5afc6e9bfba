"""A platform for the module, a clean profile folder for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from faaspot import Faaspot
from tests.unit.sdk.served import Served, served


@pytest.fixture(autouse=True)
def own_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Profiles of the test's own; nothing of the person who runs the tests is read."""
    for name in ("FAASPOT_CONFIG", "FAASPOT_URL", "FAASPOT_TOKEN", "FAASPOT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FAASPOT_DIR", str(tmp_path / "profiles"))
    return tmp_path / "profiles"


@pytest.fixture
def platform() -> Iterator[Served]:
    with served() as running:
        yield running


@pytest.fixture
def faaspot(platform: Served) -> Iterator[Faaspot]:
    with Faaspot(host=platform.url, token=platform.token) as client:
        yield client
