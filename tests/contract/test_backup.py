"""Backup and restore, from each database to each: nothing is lost on the way, and a broken file makes nothing."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from faaspot_api.backup import CANNOT_WORK, COMPLETE, backup
from faaspot_api.domain.model import Filter, RunOptions
from faaspot_api.keys import new_pair
from faaspot_api.restore import restore
from faaspot_api.settings import Settings
from faaspot_api.store import backlog, tables
from faaspot_api.store.engine import Store
from faaspot_api.supervisor.directory import DataDirectory, data_directory
from tests.control_plane import ADMIN, Plane, control_plane, failed
from tests.postgres_servers import BINARIES, MISSING, PostgresServer, running_postgres

pytestmark = pytest.mark.slow
_numbers = itertools.count()
ODD = "line\u2028separator \x85 \u2029 nul-free \U0001f600"


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    if BINARIES is None:
        pytest.skip(MISSING)
    with running_postgres() as server:
        yield server


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """The URL of a new database of a kind, "" for the SQLite of a data directory."""

    def make(kind: str) -> str:
        return "" if kind == "sqlite" else request.getfixturevalue("postgres").create(f"b{next(_numbers)}")

    return make


def settings(home: Path, url: str = "") -> Settings:
    return Settings(data_dir=home, database_url=url)


@pytest.fixture
def full(tmp_path: Path) -> Callable[[str], Settings]:
    """Makes a data directory with a bit of everything."""

    def make(url: str = "") -> Settings:
        said = settings(tmp_path / "data", url)
        DataDirectory(path=said.data_dir, uid=None).furnish()
        (said.data_dir / "admin-token").write_text("fas_admin-token-text\n")
        (said.data_dir / "admin-token").chmod(0o600)
        with control_plane(said.data_dir, said.database) as plane:
            _live(plane)
        return said

    return make


def _live(plane: Plane) -> None:
    plane.create(context="word=secret", requirements="requests")
    plane.build()
    plane.create("gone")
    plane.services.deployments.delete(ADMIN, "gone")
    for number in range(3):
        plane.run(args={"n": number, "odd": ODD})
    for more in ({}, failed("oom", ODD)):
        request = plane.take()
        plane.start(request)
        plane.finish(request, **more, log="a log with NUL \0 in it\n")
    options = RunOptions(key="once", callback="https://example.com/told", traceparent=f"00-{'1' * 32}-{'2' * 16}-01")
    plane.services.executions.run(ADMIN, "hello", "{}", options)
    plane.services.reruns.rerun(ADMIN, request.execution_id)
    plane.services.callbacks.secret(ADMIN)
    plane.services.tokens.create(ADMIN, "ann", "deployer")


def content(said: Settings) -> dict[str, list[Any]]:
    """Every row of every table."""
    store = Store(said.database)
    try:
        with store.read() as transaction:
            return {
                table.name: sorted(map(repr, transaction.execute(select(table)).all()))
                for table in tables.metadata.sorted_tables
            }
    finally:
        store.close()


@pytest.mark.parametrize("target", ["sqlite", "postgres"])
@pytest.mark.parametrize("source", ["sqlite", "postgres"])
def test_what_was_kept_comes_back_on_either_database(
    tmp_path: Path, full: Callable[[str], Settings], url: Callable[[str], str], source: str, target: str
) -> None:
    old = full(url(source))
    new = settings(tmp_path / "new", url(target))
    file = tmp_path / "kept.tar.gz"
    assert backup(old, str(file)) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert restore(new, str(file)) == 0
    assert content(new) == content(old)
    for name in ("keys/spot.key", "keys/spot.pub", "admin-token"):
        assert (new.data_dir / name).read_bytes() == (old.data_dir / name).read_bytes()
        assert (new.data_dir / name).stat().st_mode == (old.data_dir / name).stat().st_mode
    assert json.loads((new.data_dir / "faaspot.json").read_text()) == json.loads(
        (old.data_dir / "faaspot.json").read_text()
    )
    with control_plane(new.data_dir, new.database) as plane:
        version = plane.services.deployments.get(ADMIN, "hello").version
        assert plane.services.deployments.code(version).startswith("def main")
        assert plane.services.deployments.lock(version)
        before = len(plane.services.executions.list(ADMIN, Filter(), 100, None).items)
        plane.run()
        page = plane.services.executions.list(ADMIN, Filter(), 100, None).items
        assert len(page) == before + 1, "a new row has a number of its own"
        assert json.loads(page[1].args or "null")["odd"] == ODD


def test_a_backup_is_of_one_moment_while_others_write(tmp_path: Path, full: Callable[[str], Settings]) -> None:
    said = full("")
    store = Store(said.database)
    with control_plane(said.data_dir, said.database) as plane, store.read_at_one_moment() as transaction:
        before = backlog.standing(transaction)
        plane.run()
        assert backlog.standing(transaction) == before
    store.close()


def test_without_keys_nothing_in_the_file_opens_a_context(tmp_path: Path, full: Callable[[str], Settings]) -> None:
    old, file = full(""), tmp_path / "kept.tar.gz"
    assert backup(old, str(file), keys=False) == 0
    raw = gzip.decompress(file.read_bytes())
    assert (old.data_dir / "keys/spot.key").read_bytes() not in raw
    assert b"fas_admin-token-text" not in raw
    new = settings(tmp_path / "new")
    assert restore(new, str(file)) == 0
    assert not (new.data_dir / "keys/spot.key").exists()
    assert not (new.data_dir / "admin-token").exists()
    shutil.rmtree(new.data_dir)
    assert restore(new, str(file), old.data_dir / "keys/spot.key") == 0
    assert (new.data_dir / "keys/spot.key").read_bytes() == (old.data_dir / "keys/spot.key").read_bytes()


def test_an_empty_directory_that_is_there_is_filled_in_place(tmp_path: Path, full: Callable[[str], Settings]) -> None:
    """It may be the mount of a volume, beside which nothing can be written."""
    old, file, volume = full(""), tmp_path / "kept.tar.gz", tmp_path / "volume"
    assert backup(old, str(file)) == 0
    volume.mkdir()
    (volume / ".restoring" / "of a restore that was cut short").mkdir(parents=True)
    before = volume.stat().st_ino
    assert restore(settings(volume), str(file)) == 0
    assert content(settings(volume)) == content(old)
    assert volume.stat().st_ino == before
    assert not (volume / ".restoring").exists()
    assert (volume / "faaspot.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: is about a directory of another uid")
def test_a_volume_of_another_uid_becomes_that_of_who_starts_on_it(
    tmp_path: Path, full: Callable[[str], Settings]
) -> None:
    """An engine gives a new volume the owner that the image's directory has."""
    file, volume = tmp_path / "kept.tar.gz", tmp_path / "volume"
    assert backup(full(""), str(file)) == 0
    volume.mkdir(mode=0o777)
    os.chown(volume, 61_990, 61_990)
    assert restore(settings(volume), str(file)) == 0
    assert volume.stat().st_mode & 0o777 == 0o711
    data = data_directory(settings(volume))
    data.inspect()
    with data.claimed():
        data.furnish()


def test_another_private_key_is_refused(
    tmp_path: Path, full: Callable[[str], Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    file, other = tmp_path / "kept.tar.gz", tmp_path / "other.key"
    other.write_bytes(new_pair()[0])
    assert backup(full(""), str(file), keys=False) == 0
    assert restore(settings(tmp_path / "new"), str(file), other) == CANNOT_WORK
    assert "is not the private key of this backup's contexts" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def _shorter(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def _with(name: str, text: bytes) -> Callable[[bytes], bytes]:
    """The backup with a member more, or another in place of one of this name."""

    def change(raw: bytes) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=io.BytesIO(raw)) as old, tarfile.open(fileobj=out, mode="w:gz") as new:
            members = {member.name: old.extractfile(member).read() for member in old}  # type: ignore[union-attr]
            last = members.pop(COMPLETE)
            for each, held in ({**members, name: text} | {COMPLETE: text if name == COMPLETE else last}).items():
                member = tarfile.TarInfo(each)
                member.size = len(held)
                new.addfile(member, io.BytesIO(held))
        return out.getvalue()

    return change


def _twice(name: str) -> Callable[[bytes], bytes]:
    """The backup with every line of a member twice."""

    def change(raw: bytes) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(raw)) as old:
            held = old.extractfile(name).read()  # type: ignore[union-attr]
        return _with(name, held * 2)(raw)

    return change


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (_shorter, "not a whole backup"),
    "no backup": (lambda raw: b"hello", "not a whole backup"),
    "a way out": (_with("files/../../etc/passwd", b"x"), "none of ours has"),
    "another file": (_with("files/keys/other", b"x"), "none of ours has"),
    "a wrong blob": (_with("blobs/" + "0" * 64, b"x"), "other bytes than its name says"),
    "rows too few": (_with("complete.json", b'{"blobs": 99}'), "does not hold as many rows"),
    "another table": (_with("tables/nowhere/000000.jsonl", b"{}\n"), "no release of its revision has"),
    "other columns": (_with("tables/tokens/000009.jsonl", b'{"nothing": 1}\n'), "rows of tokens that do not fit"),
    "no row": (_with("tables/tokens/000009.jsonl", b"5\n"), "rows of tokens that do not fit"),
    "half a row": (_with("tables/options/000009.jsonl", b'{"name": "x"}\n'), "rows of options that do not fit"),
    "a row twice": (_twice("tables/options/000000.jsonl"), "rows of options that do not fit"),
    "a number too large": (
        _with("tables/pauses/000009.jsonl", b'{"execution": "x", "until": ' + b"9" * 30 + b"}\n"),
        "rows of pauses that do not fit",
    ),
    "nested deep": (_with("tables/tokens/000009.jsonl", b"[" * 100_000 + b"\n"), "rows of tokens that do not fit"),
    "of the future": (_with("manifest.json", b'{"format": 9, "faaspot": "9.0"}'), "newer faaspot"),
    "another schema": (
        _with("manifest.json", b'{"format": 1, "faaspot": "9.0", "revision": "r9999", "keys": true, "id": "x"}'),
        "another release",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_is_no_whole_backup_makes_nothing(
    tmp_path: Path, full: Callable[[str], Settings], capsys: pytest.CaptureFixture[str], how: str
) -> None:
    file, (change, said) = tmp_path / "kept.tar.gz", BROKEN[how]
    assert backup(full(""), str(file)) == 0
    file.write_bytes(change(file.read_bytes()))
    assert restore(settings(tmp_path / "new"), str(file)) == CANNOT_WORK
    assert said in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"data", "kept.tar.gz"}


def test_nothing_that_is_there_is_overwritten(
    tmp_path: Path, full: Callable[[str], Settings], url: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    old, file = full(url("postgres")), tmp_path / "kept.tar.gz"
    assert backup(old, str(file)) == 0
    assert backup(old, str(file)) == CANNOT_WORK
    assert "is there already" in capsys.readouterr().err
    assert restore(old, str(file)) == CANNOT_WORK
    assert "is not empty" in capsys.readouterr().err
    assert restore(settings(tmp_path / "new", old.database_url), str(file)) == CANNOT_WORK
    assert "the database is not empty" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_directory_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert backup(settings(tmp_path), str(tmp_path / "x")) == CANNOT_WORK
    assert "not a faaspot data directory" in capsys.readouterr().err


def test_a_missing_blob_is_named_and_leaves_no_file(
    tmp_path: Path, full: Callable[[str], Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    old = full("")
    for path in (old.data_dir / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    assert backup(old, str(tmp_path / "kept")) == CANNOT_WORK
    assert "is missing" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_the_last_line_says_how_many_large_values_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = settings(tmp_path / "data")
    DataDirectory(path=said.data_dir, uid=None).furnish()
    with control_plane(said.data_dir, said.database) as plane:
        plane.create()
        assert backup(said, str(tmp_path / "before.tar.gz")) == 0
        assert "Not in it" not in capsys.readouterr().err
        large = plane.services.executions.take_args(ADMIN, "hello", [b'{"n": 1}'])
        plane.services.executions.run(ADMIN, "hello", large)
        assert backup(said, str(tmp_path / "file.tar.gz")) == 0
    assert "Not in it: 1 args and results of more than 8 MB" in capsys.readouterr().err
