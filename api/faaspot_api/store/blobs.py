"""Blobs: bytes named by their SHA-256, on a shelf: a directory that the spots read, or a bucket.

A blob appears whole or not at all (written to a file first, then put there) and is checked on every read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from faaspot_api.errors import ApiError, TooLarge, Unavailable
from faaspot_api.settings import Settings
from faaspot_api.store.shelves import Directory, Objects, Shelf, old_files
from faaspot_runner.contract import LargeValue, is_digest
from faaspot_runner.contract.bucket import opened
from faaspot_runner.contract.large import KEPT_FREE

PARTS = 256
NEW = "new"
"""Beside the parts: what is being written, always on this machine's disk."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class BrokenBlobError(Exception):
    """A blob is missing, or its bytes are not those of its name."""


class Blobs:
    """The blobs on a shelf. Used from any thread and process."""

    def __init__(self, root: Path, shelf: Shelf | None = None) -> None:
        """`root`, which is made if it is not there: what is not finished is in it and, without a `shelf`, all blobs."""
        self._root = root
        self._root.mkdir(parents=True, exist_ok=True)
        self._shelf = shelf or Directory(root)

    @classmethod
    def of(cls, settings: Settings) -> Blobs:
        """The blobs of a platform with these settings. Raises bucket.BucketError for a bucket that cannot be."""
        root = settings.data_dir / "blobs"
        return cls(root) if settings.bucket is None else cls(root, Objects(opened(settings.bucket)))

    def __str__(self) -> str:
        return str(self._shelf)

    def put(self, content: bytes) -> str:
        """Keep `content`; returns its digest. Raises Unavailable (`storage_full`)."""
        digest = hashlib.sha256(content).hexdigest()
        with _translated():
            if not self._shelf.renew(digest):  # as needed as a new one: nobody may tidy it away now
                with self._new() as file:
                    file.write(content)
                    self._publish(file, digest)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes. Raises BrokenBlobError if they are not there or not right, Unavailable if they cannot be read."""
        with _translated():
            content = b"".join(self.open(digest)[1])
        if hashlib.sha256(content).hexdigest() != digest:
            raise BrokenBlobError(f"blob {digest} holds other bytes than its name says")
        return content

    def open(self, digest: str) -> tuple[int, Iterator[bytes]]:
        """The size and the bytes, piece by piece and not compared with the name: who reads them does that.

        Raises BrokenBlobError if they are not there, Unavailable if they cannot be read.
        """
        with _translated():
            try:
                return self._shelf.open(_checked(digest))
            except FileNotFoundError:
                raise BrokenBlobError(f"blob {digest} is missing") from None

    def put_all(self, digest: str, pieces: Iterable[bytes]) -> None:
        """Keep what comes in pieces. Raises BrokenBlobError if it is not what `digest` says, Unavailable."""
        _checked(digest)
        with _translated(), self._new() as file:
            found, _ = _written(file, pieces)
            if found != digest:
                raise BrokenBlobError(f"has the digest {found}, not {digest}")
            self._publish(file, digest)

    def take(self, pieces: Iterable[bytes], most: int) -> LargeValue:
        """Keep what comes in pieces, whatever it is; never more than one of them is in memory.

        Raises TooLarge beyond `most` bytes, Unavailable (`storage_full`, too, before the disk is full).
        """
        with _translated(), self._new() as file:
            digest, size = _written(file, _bounded(file, pieces, most))
            self._publish(file, digest)
        return LargeValue(digest=digest, size=size)

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        with _translated():
            return is_digest(digest) and self._shelf.age(digest) is not None

    def delete(self, digest: str) -> None:
        """Forget a blob; no error if it is not there."""
        if is_digest(digest):
            with _translated():
                self._shelf.delete(digest)

    def delete_old(self, digest: str, seconds: float) -> bool:
        """Forget a blob that nobody has put for so many seconds; whether that was so."""
        with _translated():
            age = self._shelf.age(_checked(digest))
            if age is not None and age < seconds:
                return False
            self._shelf.delete(digest)
        return True

    def old(self, part: int, seconds: float) -> list[str]:
        """Those of one of `PARTS` parts that nobody has put for so many seconds. What was never finished is removed."""
        with _translated():
            for name in old_files(self._root / NEW, seconds):
                (self._root / NEW / name).unlink(missing_ok=True)
            return self._shelf.old(part, seconds)

    def space(self) -> tuple[int, int]:
        """Bytes of the disk that holds them, or of a bucket's those that are on their way there: free, and in all."""
        usage = shutil.disk_usage(self._root)
        return usage.free, usage.total

    def check(self) -> None:
        """Raises Unavailable if they cannot be read and written now."""
        with _translated():
            self._shelf.check()

    def _publish(self, file: IO[bytes], digest: str) -> None:
        file.flush()
        self._shelf.put(digest, file)

    @contextmanager
    def _new(self) -> Iterator[IO[bytes]]:
        """A file for what is to be published. Nothing is left of it at the end."""
        (self._root / NEW).mkdir(exist_ok=True)
        with NamedTemporaryFile(dir=self._root / NEW, delete=False) as file:
            try:
                yield file
            finally:
                with contextlib.suppress(FileNotFoundError):  # it has its name
                    os.unlink(file.name)


def _written(file: IO[bytes], pieces: Iterable[bytes]) -> tuple[str, int]:
    """The digest and size of what was written."""
    found, size = hashlib.sha256(), 0
    for piece in pieces:
        found.update(piece)
        size += file.write(piece)
    return found.hexdigest(), size


def _bounded(file: IO[bytes], pieces: Iterable[bytes], most: int) -> Iterator[bytes]:
    """The pieces, as long as they may be and the disk has room for others beside them. Raises TooLarge, Unavailable."""
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > most:
            raise TooLarge(f"This may have at most {most} bytes: what the run's memory holds, and 1 GB.")
        disk = os.fstatvfs(file.fileno())
        if len(piece) > (disk.f_bavail - KEPT_FREE * disk.f_blocks) * disk.f_frsize:
            text = "The disk has no room for this beside what it keeps free; free some space and try again."
            raise Unavailable(text, code="storage_full", retry_after=30)
        yield piece


def _checked(digest: str) -> str:
    """The digest. Raises BrokenBlobError for what is none: as a path it could be any file."""
    if not is_digest(digest):
        raise BrokenBlobError(f"{digest[:80]!r} is not a blob's digest")
    return digest


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unavailable(error) from error


def _unavailable(error: OSError) -> ApiError:
    if error.errno in _FULL:
        return Unavailable(
            "The disk that holds the code is full; free some space and try again.", code="storage_full", retry_after=30
        )
    return Unavailable(
        "The place that holds the code cannot be used now; try again.", code="storage_unavailable", retry_after=5
    )
