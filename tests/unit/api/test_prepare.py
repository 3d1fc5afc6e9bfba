"""What the parts of a platform need before they start, made by one command and asked for by the others."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from faaspot_api.__main__ import main
from faaspot_api.settings import Settings
from faaspot_api.supervisor.directory import data_directory


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for a data directory, which the environment names, with an admin token."""
    monkeypatch.setenv("FAASPOT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("FAASPOT_TOKEN", "the-token")
    return tmp_path


def test_the_private_key_goes_where_the_spot_is_and_nowhere_else(home: Path) -> None:
    private = home / "spot" / "keys" / "spot.key"
    (home / "spot").mkdir()
    assert main(["prepare", "--spot-key", str(private)]) == 0
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
    assert len(private.read_bytes()) == 32
    assert [path.name for path in (home / "data" / "keys").iterdir()] == ["spot.pub"]


def test_it_makes_the_tables_and_the_admin_token(home: Path) -> None:
    assert main(["prepare"]) == 0
    assert (home / "data" / "keys" / "spot.key").exists(), "as `fas up` has it"
    with sqlite3.connect(home / "data" / "db" / "faaspot.db") as database:
        assert database.execute("SELECT name FROM tokens").fetchall() == [("admin",)]
    database.close()


def test_done_again_it_leaves_what_is_there(home: Path) -> None:
    assert main(["prepare"]) == 0
    before = (home / "data" / "keys" / "spot.key").read_bytes()
    assert main(["prepare"]) == 0
    assert (home / "data" / "keys" / "spot.key").read_bytes() == before


def test_beside_a_platform_of_one_process_tree_it_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare"]) == 0
    (home / "data" / "keys" / "redis-password").write_text("in use")
    with data_directory(Settings(data_dir=home / "data")).claimed():
        assert main(["prepare"]) == 2
    assert "runs on" in capsys.readouterr().err
    assert (home / "data" / "keys" / "redis-password").read_text() == "in use"


def test_a_private_key_that_is_gone_is_no_reason_for_a_new_pair(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is sealed to the public one could never be opened again."""
    assert main(["prepare"]) == 0
    public = (home / "data" / "keys" / "spot.pub").read_bytes()
    (home / "data" / "keys" / "spot.key").unlink()
    assert main(["prepare"]) == 2
    assert "put it back, or delete" in capsys.readouterr().err
    assert (home / "data" / "keys" / "spot.pub").read_bytes() == public


def test_without_a_token_nothing_is_made(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FAASPOT_TOKEN")
    assert main(["prepare"]) == 2
    assert "FAASPOT_TOKEN_FILE" in capsys.readouterr().err
    assert not (home / "data").exists()


def test_somebody_elses_directory_is_left_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "data").mkdir()
    (home / "data" / "letter").touch()
    assert main(["prepare"]) == 2
    assert "not a faaspot data directory" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["recorder"], ["gunicorn", "--port", "0"]])
def test_a_part_that_starts_unprepared_says_what_prepares(home: Path, command: list[str]) -> None:
    (home / "data" / "db").mkdir(parents=True)
    program = [sys.executable, "-P", "-m", "faaspot_api", *command]
    done = subprocess.run(program, env=os.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "spot.pub is missing: `python -m faaspot_api prepare`" in done.stderr
