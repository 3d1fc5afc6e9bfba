"""Root that may not do what a platform needs is told at once; an ordinary user needs nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from faaspot_api.supervisor.errors import CannotStartError
from faaspot_api.supervisor.rights import check_rights

ENGINES_DEFAULT = 0xA80425FB


def status(directory: Path, held: int) -> Path:
    path = directory / "status"
    path.write_text(f"Name:\tpython3\nCapPrm:\t{held:016x}\nCapEff:\t{held:016x}\n")
    return path


def test_what_root_lacks_is_named_with_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    check_rights(status(tmp_path, ENGINES_DEFAULT))
    with pytest.raises(CannotStartError, match=r"lacks the capabilities KILL, SETUID here: .*--cap-add KILL --cap-add"):
        check_rights(status(tmp_path, ENGINES_DEFAULT & ~(1 << 5) & ~(1 << 7)))


def test_an_ordinary_user_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    check_rights(status(tmp_path, 0))
