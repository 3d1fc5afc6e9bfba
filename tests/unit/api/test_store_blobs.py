"""Blobs: whole or not there, checked on every read."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from faaspot_api.errors import Invalid, TooLarge, Unavailable
from faaspot_api.store.blobs import Blobs, BrokenBlobError


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_blob_is_named_by_its_digest_and_comes_back(blobs: Blobs, tmp_path: Path) -> None:
    digest = blobs.put(b"code")
    assert digest == hashlib.sha256(b"code").hexdigest()
    assert blobs.get(digest) == b"code"
    assert _files(tmp_path / "blobs") == [tmp_path / "blobs" / digest[:2] / digest]


def test_equal_bytes_are_kept_once(blobs: Blobs, tmp_path: Path) -> None:
    assert blobs.put(b"x") == blobs.put(b"x")
    assert len(_files(tmp_path)) == 1


def test_only_the_owner_reads_them(blobs: Blobs, tmp_path: Path) -> None:
    blobs.put(b"x")
    assert [path.stat().st_mode & 0o077 for path in _files(tmp_path)] == [0]


def test_what_is_deleted_is_gone_and_deleting_it_again_is_no_error(blobs: Blobs) -> None:
    digest = blobs.put(b"x")
    blobs.delete(digest)
    blobs.delete(digest)
    assert not blobs.has(digest)
    with pytest.raises(BrokenBlobError, match="missing"):
        blobs.get(digest)


@pytest.mark.parametrize("name", ["{root}/other", "../other", "..", "", "F" * 64])
def test_what_is_no_digest_is_no_file(blobs: Blobs, tmp_path: Path, name: str) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"kept")
    name = name.format(root=tmp_path)
    assert not blobs.has(name)
    blobs.delete(name)
    for use in (blobs.get, blobs.open, lambda digest: blobs.put_all(digest, [b"x"])):
        with pytest.raises(BrokenBlobError):
            use(name)
    assert other.read_bytes() == b"kept"


def test_changed_bytes_are_noticed(blobs: Blobs, tmp_path: Path) -> None:
    digest = blobs.put(b"x")
    (path,) = _files(tmp_path)
    path.write_bytes(b"y")
    with pytest.raises(BrokenBlobError, match="other bytes"):
        blobs.get(digest)


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "storage_full"), (errno.EIO, "storage_unavailable")])
def test_a_failing_disk_leaves_no_half_blob(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    def fail(_descriptor: int) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Unavailable) as caught:
        blobs.put(b"x")
    assert caught.value.code == code
    assert _files(tmp_path) == []


def test_what_comes_in_pieces_is_taken_whole(blobs: Blobs, tmp_path: Path) -> None:
    taken = blobs.take(iter([b"a" * 1000, b"b" * 1000]), 2000)
    assert (taken.size, taken.digest) == (2000, hashlib.sha256(b"a" * 1000 + b"b" * 1000).hexdigest())
    assert blobs.take([b"a" * 1000 + b"b" * 1000], 2000) == taken
    assert blobs.get(taken.digest) == b"a" * 1000 + b"b" * 1000
    assert len(_files(tmp_path)) == 1


def test_no_more_is_taken_than_may_be_and_nothing_is_left_of_it(blobs: Blobs, tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"a" * 1000
        yield b"b"
        raise AssertionError("read on")

    def broken() -> Iterator[bytes]:
        yield b"a"
        raise Invalid("it broke off")

    with pytest.raises(TooLarge, match="at most 1000 bytes"):
        blobs.take(pieces(), 1000)
    with pytest.raises(Invalid):
        blobs.take(broken(), 1000)
    assert _files(tmp_path) == []


def test_a_part_of_the_disk_is_left_to_others(blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faaspot_api.store.blobs.KEPT_FREE", 1.0)
    with pytest.raises(Unavailable) as raised:
        blobs.take([b"a"], 1000)
    assert raised.value.code == "storage_full"
    assert _files(tmp_path) == []
