"""Blobs: bytes named by their SHA-256, in a directory that the spots read.

A blob appears whole or not at all (written beside, synced, renamed) and is checked on every read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from tempfile import NamedTemporaryFile

from faaspot_api.errors import ApiError, Unavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class BrokenBlobError(Exception):
    """A blob is missing, or its bytes are not those of its name."""


class Blobs:
    """The blobs under `root`, which is made if it is not there. Used from any thread and process."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._root.mkdir(parents=True, exist_ok=True)

    def put(self, content: bytes) -> str:
        """Keep `content`; returns its digest. Raises Unavailable (`storage_full`)."""
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(digest)
        if not path.exists():
            try:
                self._write(path, content)
            except OSError as error:
                raise _translate(error) from error
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes. Raises BrokenBlobError if they are not there or not right, Unavailable if they cannot be read."""
        try:
            content = self._path(digest).read_bytes()
        except FileNotFoundError:
            raise BrokenBlobError(f"blob {digest} is missing") from None
        except OSError as error:
            raise _translate(error) from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise BrokenBlobError(f"blob {digest} holds other bytes than its name says")
        return content

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        return self._path(digest).exists()

    def delete(self, digest: str) -> None:
        """Forget a blob; no error if it is not there."""
        self._path(digest).unlink(missing_ok=True)

    def space(self) -> tuple[int, int]:
        """Bytes of the disk that holds them: free, and in all."""
        usage = shutil.disk_usage(self._root)
        return usage.free, usage.total

    def _path(self, digest: str) -> Path:
        return self._root / digest[:2] / digest

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """Make a rename in it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _translate(error: OSError) -> ApiError:
    if error.errno in _FULL:
        return Unavailable(
            "The disk that holds the code is full; free some space and try again.", code="storage_full", retry_after=30
        )
    return Unavailable(
        "The directory that holds the code cannot be used now; try again.", code="storage_unavailable", retry_after=5
    )
