"""The `fas` command with a platform behind it, in a folder of the test's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from faaspot import Profiles
from fas.app import fas as root
from tests.unit.sdk.served import Served, served


@dataclass(frozen=True)
class Fas:
    """Types commands. A command is expected to end with `code`, and without an error that nobody turned into text."""

    def __call__(self, *words: str, code: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(root, words, prog_name="fas", input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, (words, result.exit_code, result.stdout, result.stderr)
        return result

    def json(self, *words: str) -> Any:
        """What is on stdout, which must be JSON and nothing else."""
        return json.loads(self(*words, "--json").stdout)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Profiles and current folder of the test's own; nothing of the person who runs the tests is read."""
    for name in ("FAASPOT_CONFIG", "FAASPOT_URL", "FAASPOT_TOKEN", "FAASPOT_PROFILE", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FAASPOT_DIR", str(tmp_path / "profiles"))
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def bare() -> Fas:
    """The command without any profile."""
    return Fas()


@pytest.fixture
def platform() -> Iterator[Served]:
    with served() as running:
        yield running


@pytest.fixture
def fas(platform: Served) -> Fas:
    """The command with a profile of a platform."""
    Profiles().create("test", host=platform.url, token=platform.token)
    return Fas()
