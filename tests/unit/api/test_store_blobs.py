"""Blobs: whole or not there, checked on every read."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import NoReturn

import pytest

from faaspot_api.errors import Unavailable
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
