"""What the children write: kept in files of bounded size, the last lines at hand for an error message."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 8 * 1024 * 1024
"""Size of one log file; the one before it is kept as NAME.log.1."""
LAST_LINES = 20
MAX_LINE = 16 * 1024


class ChildLog:
    """One child's log file, appended to and turned over at `MAX_BYTES`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self._file: BinaryIO = path.open("ab")
        self._size = self._file.tell()

    def write(self, line: bytes) -> None:
        """Append one line, with or without its end."""
        line = line.rstrip(b"\n") + b"\n"
        if self._size and self._size + len(line) > MAX_BYTES:
            self._turn_over()
        self._file.write(line)
        self._file.flush()
        self._size += len(line)
        self.last.append(line.decode(errors="replace").rstrip())

    def close(self) -> None:
        self._file.close()

    def _turn_over(self) -> None:
        self._file.close()
        self.path.replace(self.path.with_name(self.path.name + ".1"))
        self._file = self.path.open("ab")
        self._size = 0


async def copy_lines(source: asyncio.StreamReader, log: ChildLog) -> None:
    """Copy until the end of `source`. A line that does not end is cut into pieces: memory stays bounded."""
    rest = b""
    while part := await source.read(MAX_LINE):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            log.write(line)
        if len(rest) >= MAX_LINE:
            log.write(rest)
            rest = b""
    if rest:
        log.write(rest)


def say(text: str) -> None:
    """One line for the person at the console."""
    sys.stderr.write(f"faaspot: {_one_line(text)}\n")
    sys.stderr.flush()


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text.replace("\n", " | "))
