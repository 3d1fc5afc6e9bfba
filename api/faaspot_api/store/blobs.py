"""Blobs: bytes named by their SHA-256, in a directory that the spots read.

A blob appears whole or not at all (written beside, synced, renamed) and is checked on every read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from faaspot_api.errors import ApiError, TooLarge, Unavailable
from faaspot_runner.contract import LargeValue, is_digest
from faaspot_runner.contract.large import KEPT_FREE

PIECE = 1024 * 1024
PARTS = 256
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
        try:
            try:
                os.utime(path)  # as needed as a new one: nobody may tidy it away now
            except FileNotFoundError:
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

    def open(self, digest: str) -> tuple[int, Iterator[bytes]]:
        """The size and the bytes, piece by piece and not compared with the name: who reads them does that.

        Raises BrokenBlobError if they are not there, Unavailable if they cannot be read.
        """
        try:
            file = self._path(digest).open("rb")
        except FileNotFoundError:
            raise BrokenBlobError(f"blob {digest} is missing") from None
        except OSError as error:
            raise _translate(error) from error
        return os.fstat(file.fileno()).st_size, _pieces(file)

    def put_all(self, digest: str, pieces: Iterable[bytes]) -> None:
        """Keep what comes in pieces. Raises BrokenBlobError if it is not what `digest` says, Unavailable."""
        path, found = self._path(digest), hashlib.sha256()
        try:
            with self._new(path.parent) as file:
                for piece in pieces:
                    found.update(piece)
                    file.write(piece)
                if found.hexdigest() != digest:
                    raise BrokenBlobError(f"has the digest {found.hexdigest()}, not {digest}")
                _publish(file, path)
        except OSError as error:
            raise _translate(error) from error

    def take(self, pieces: Iterable[bytes], most: int) -> LargeValue:
        """Keep what comes in pieces, whatever it is; never more than one of them is in memory.

        Raises TooLarge beyond `most` bytes, Unavailable (`storage_full`, too, before the disk is full).
        """
        found, size = hashlib.sha256(), 0
        try:
            with self._new(self._root / "00") as file:
                for piece in pieces:
                    size += len(piece)
                    if size > most:
                        raise TooLarge(f"This may have at most {most} bytes: what the run's memory holds, and 1 GB.")
                    _check_room(file, len(piece))
                    found.update(piece)
                    file.write(piece)
                _publish(file, self._path(found.hexdigest()))
        except OSError as error:
            raise _translate(error) from error
        return LargeValue(digest=found.hexdigest(), size=size)

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        return is_digest(digest) and self._path(digest).exists()

    def delete(self, digest: str) -> None:
        """Forget a blob; no error if it is not there."""
        if self.has(digest):
            self._path(digest).unlink(missing_ok=True)

    def delete_old(self, digest: str, seconds: float) -> bool:
        """Forget a blob that nobody has put for so many seconds; whether that was so."""
        path = self._path(digest)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime > time.time() - seconds:
                return False
            path.unlink()
        return True

    def old(self, part: int, seconds: float) -> list[str]:
        """Those of one of `PARTS` parts that nobody has put for so many seconds. What was never finished is removed."""
        found, until = [], time.time() - seconds
        for path in (self._root / f"{part:02x}").glob("*"):
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                if path.stat().st_mtime > until:
                    continue
                if is_digest(path.name):
                    found.append(path.name)
                else:
                    path.unlink()
        return found

    def space(self) -> tuple[int, int]:
        """Bytes of the disk that holds them: free, and in all."""
        usage = shutil.disk_usage(self._root)
        return usage.free, usage.total

    def _path(self, digest: str) -> Path:
        """Where it is. Raises BrokenBlobError for what is no digest: as a path it could be any file."""
        if not is_digest(digest):
            raise BrokenBlobError(f"{digest[:80]!r} is not a blob's digest")
        return self._root / digest[:2] / digest

    def _write(self, path: Path, content: bytes) -> None:
        with self._new(path.parent) as file:
            file.write(content)
            _publish(file, path)

    @contextmanager
    def _new(self, directory: Path) -> Iterator[IO[bytes]]:
        """A file that is to be published in the block, and is gone if that does not come to its end."""
        directory.mkdir(exist_ok=True)
        with NamedTemporaryFile(dir=directory, prefix=".new-", delete=False) as file:
            try:
                yield file
            except BaseException:
                os.unlink(file.name)
                raise


def _publish(file: IO[bytes], path: Path) -> None:
    """Give the file its name, for good."""
    file.flush()
    os.fsync(file.fileno())
    path.parent.mkdir(exist_ok=True)
    os.replace(file.name, path)
    _sync_directory(path.parent)


def _check_room(file: IO[bytes], more: int) -> None:
    """Raises Unavailable where so many bytes more would take what the disk has left for others."""
    disk = os.fstatvfs(file.fileno())
    if more > (disk.f_bavail - KEPT_FREE * disk.f_blocks) * disk.f_frsize:
        raise Unavailable(
            "The disk has no room for this beside what it keeps free; free some space and try again.",
            code="storage_full",
            retry_after=30,
        )


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece


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
