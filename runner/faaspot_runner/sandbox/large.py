"""An output that is too long for a record: written to a file without a name while it comes, and never looked into.

It is the bytes that the process sent, up to the run's memory. That they are JSON is the process' own word.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import IO

from faaspot_runner.contract.large import KEPT_FREE


class NoRoomError(Exception):
    """The spot has no place for it; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Large:
    """An output in a file, which its owner closes."""

    file: IO[bytes]
    digest: str
    size: int


class Incoming:
    """An output on its way. What comes last, the brace that closes the frame, is none of it."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        """`length`: bytes that are to come, the brace included. Raises NoRoomError."""
        self._file = file
        self._left = length
        self._size = length - 1
        self._hash = hashlib.sha256()
        self.closed_well = False
        disk = os.fstatvfs(file.fileno())
        if length > (disk.f_bavail - KEPT_FREE * disk.f_blocks) * disk.f_frsize:
            raise NoRoomError("its disk is nearly full")

    def add(self, data: bytes) -> int:
        """Write a piece; how much of it was the frame's. Raises NoRoomError."""
        taken = min(len(data), self._left)
        output = min(taken, self._left - 1)
        try:
            self._file.write(data[:output])
        except OSError as error:
            raise NoRoomError(str(error.strerror)) from error
        self._hash.update(data[:output])
        self._left -= taken
        if self._left == 0:
            self.closed_well = data[taken - 1 : taken] == b"}"
        return taken

    @property
    def is_whole(self) -> bool:
        return self._left == 0

    def result(self) -> Large:
        """The output, once it is whole. Raises NoRoomError."""
        try:
            self._file.flush()
        except OSError as error:
            raise NoRoomError(str(error.strerror)) from error
        return Large(file=self._file, digest=self._hash.hexdigest(), size=self._size)
