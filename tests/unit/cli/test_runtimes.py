"""`fas runtimes`: what the platform says."""

from __future__ import annotations

from fas.command import FAILED
from tests.unit.cli.conftest import Fas


def test_the_platforms_own_word_is_shown(fas: Fas) -> None:
    assert "not supported" in fas("runtimes", "list", code=FAILED).stderr
    assert "not supported" in fas("runtimes", "get", "docker", code=FAILED).stderr
