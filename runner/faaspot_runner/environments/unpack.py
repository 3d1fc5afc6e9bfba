"""Unpacks a tree that a build sandbox sent: every head is checked before anything is done.

The stream comes from hostile code. Nothing of it is kept but plain files, directories and links that stay inside, made
anew in a directory that nobody else can write; no path of the sandbox is ever opened.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from faaspot_runner.environments.errors import BuildError
from faaspot_runner.environments.tree import (
    DIRECTORY_MODE,
    FILE_MODE,
    MAX_DEPTH,
    PROGRAM_MODE,
    Budget,
    Rewrite,
    link_stays_inside,
)

MAX_HEAD_BYTES = 16 * 1024
_CHUNK = 1024 * 1024
_T = TypeVar("_T")


class ParcelError(BuildError):
    """The stream is not a tree as an installed package can be: nothing of it is used."""

    def __init__(self, what: str) -> None:
        super().__init__(f"What the build made cannot be taken over: {what}.")


def unpack(stream: BinaryIO, destination: Path, *, rewrite: Rewrite, budget: Budget | None = None) -> None:
    """Make the streamed tree in `destination`, an empty directory of ours; modes become read-only.

    Raises ParcelError, BuildError when it is too large, OSError from the disk.
    """
    unpacker = _Unpacker(stream, destination, rewrite, budget or Budget())
    while unpacker.entry():
        pass
    unpacker.close()


class _Unpacker:
    def __init__(self, stream: BinaryIO, destination: Path, rewrite: Rewrite, budget: Budget) -> None:
        self._stream = stream
        self._destination = destination
        self._rewrite = rewrite
        self._budget = budget
        self._directories = {""}

    def entry(self) -> bool:
        """Take one entry; False at the end."""
        head = self._head()
        kind = head.get("kind")
        if kind == "end":
            return False
        self._budget.spend()
        path = self._path(head.get("path"))
        if kind == "directory":
            self._made(os.mkdir, path)
            self._directories.add(path)
        elif kind == "link":
            self._link(path, head.get("target"))
        elif kind == "file":
            self._file(path, head.get("size"), head.get("program") is True)
        else:
            raise ParcelError("an entry is neither file, directory nor link")
        return True

    def close(self) -> None:
        for path in self._directories:
            os.chmod(self._destination / path, DIRECTORY_MODE)

    def _head(self) -> dict[str, Any]:
        (length,) = struct.unpack(">I", self._exactly(4))
        if length > MAX_HEAD_BYTES:
            raise ParcelError("an entry's head is too long")
        try:
            head = json.loads(self._exactly(length))
        except (ValueError, RecursionError) as error:
            raise ParcelError("an entry's head cannot be read") from error
        if not isinstance(head, dict):
            raise ParcelError("an entry's head cannot be read")
        return head

    def _exactly(self, length: int) -> bytes:
        data = self._stream.read(length)
        if len(data) != length:
            raise ParcelError("it ends too early")
        return data

    def _path(self, path: object) -> str:
        """The path, checked: relative, plain, in a directory that we have made. So no link can be on its way."""
        if not isinstance(path, str) or "\0" in path or not path.isprintable() or path.count("/") > MAX_DEPTH:
            raise ParcelError("an entry has a strange name")
        parts = path.split("/")
        if any(part in ("", ".", "..") or len(os.fsencode(part)) > 255 for part in parts):
            raise ParcelError("an entry has a strange name")
        if "/".join(parts[:-1]) not in self._directories:
            raise ParcelError(f"{path!r} is in no directory that came before it")
        return path

    def _link(self, path: str, target: object) -> None:
        if not isinstance(target, str) or not link_stays_inside(path, target):
            raise ParcelError(f"the link {path!r} leads out of the environment")
        self._made(lambda at: os.symlink(target, at), path)

    def _file(self, path: str, size: object, program: bool) -> None:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ParcelError(f"{path!r} has no size")
        self._budget.spend(size=size)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = self._made(lambda at: os.open(at, flags, 0o600), path)
        with open(descriptor, "wb") as file:
            block = self._exactly(min(size, _CHUNK))
            file.write(self._rewrite(path, block))
            left = size - len(block)
            while left:
                block = self._exactly(min(left, _CHUNK))
                file.write(block)
                left -= len(block)
            os.fchmod(file.fileno(), PROGRAM_MODE if program else FILE_MODE)

    def _made(self, make: Callable[[Path], _T], path: str) -> _T:
        try:
            return make(self._destination / path)
        except FileExistsError as error:
            raise ParcelError(f"{path!r} comes twice") from error
