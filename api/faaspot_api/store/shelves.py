"""Where blobs stand, by digest: in a directory that the spots read, or in a bucket. What is on a shelf is whole."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from faaspot_runner.contract import is_digest

if TYPE_CHECKING:
    from faaspot_runner.contract.objects import Bucket

PIECE = 1024 * 1024
FRESH_SECONDS = 3600.0
"""What was put into a bucket within it is as young as what is put now: nobody tidies it away."""


class Shelf(Protocol):
    """Blobs by digest, which the caller has checked to be one. Every method raises OSError if it cannot be used."""

    def renew(self, digest: str) -> bool:
        """Make it as young as if it were put now; False if it is not there and has to be."""

    def put(self, digest: str, file: IO[bytes]) -> None:
        """Keep what is in a named file, whole and flushed, beside the shelf. The file may be gone afterwards."""

    def open(self, digest: str) -> tuple[int, Iterator[bytes]]:
        """The size, and the bytes in pieces. Raises FileNotFoundError."""

    def age(self, digest: str) -> float | None:
        """Seconds since somebody put it, None if it is not there."""

    def delete(self, digest: str) -> None:
        """No error if it is not there."""

    def old(self, part: int, seconds: float) -> list[str]:
        """Those whose digest begins with this byte and that nobody has put for so many seconds."""

    def check(self) -> None:
        """Raises OSError unless it can be read and written."""


class Directory:
    """`ROOT/ab/abcdef...`: written beside, synced, renamed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __str__(self) -> str:
        return str(self._root)

    def renew(self, digest: str) -> bool:
        try:
            os.utime(self._path(digest))
        except FileNotFoundError:
            return False
        return True

    def put(self, digest: str, file: IO[bytes]) -> None:
        path = self._path(digest)
        os.fsync(file.fileno())
        path.parent.mkdir(exist_ok=True)
        os.replace(file.name, path)
        _sync_directory(path.parent)

    def open(self, digest: str) -> tuple[int, Iterator[bytes]]:
        file = self._path(digest).open("rb")
        return os.fstat(file.fileno()).st_size, _pieces(file)

    def age(self, digest: str) -> float | None:
        try:
            return time.time() - self._path(digest).stat().st_mtime
        except FileNotFoundError:
            return None

    def delete(self, digest: str) -> None:
        self._path(digest).unlink(missing_ok=True)

    def old(self, part: int, seconds: float) -> list[str]:
        directory, found = self._root / f"{part:02x}", []
        for name in old_files(directory, seconds):
            if is_digest(name):
                found.append(name)
            else:  # what a spot began and did not finish
                (directory / name).unlink(missing_ok=True)
        return found

    def check(self) -> None:
        os.stat(self._root)

    def _path(self, digest: str) -> Path:
        return self._root / digest[:2] / digest


class Objects:
    """A bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def __str__(self) -> str:
        return str(self._bucket)

    def renew(self, digest: str) -> bool:
        age = self.age(digest)
        return age is not None and age < FRESH_SECONDS

    def put(self, digest: str, file: IO[bytes]) -> None:
        self._bucket.put(digest, Path(file.name))

    def open(self, digest: str) -> tuple[int, Iterator[bytes]]:
        return self._bucket.open(digest)

    def age(self, digest: str) -> float | None:
        return self._bucket.age(digest)

    def delete(self, digest: str) -> None:
        self._bucket.delete(digest)

    def old(self, part: int, seconds: float) -> list[str]:
        return [name for name in self._bucket.old(part, seconds) if is_digest(name)]

    def check(self) -> None:
        self._bucket.check()


def old_files(directory: Path, seconds: float) -> list[str]:
    """The names of files that nobody has touched for so many seconds."""
    found, until = [], time.time() - seconds
    for path in directory.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            if path.stat().st_mtime <= until:
                found.append(path.name)
    return found


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
