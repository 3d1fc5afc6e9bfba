"""Texts that go to the platform: read from a path or an open file, and encoded for the wire."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, TypeAlias
from urllib.parse import quote

from faaspot.errors import BadArgument, MissingFile, UnreadableFile

Source: TypeAlias = str | os.PathLike[str] | IO[str] | IO[bytes]
"""A file to send: its path, or an open file."""


def read(source: Source) -> str:
    """The UTF-8 text of a file. `MissingFile` if it is not there, `UnreadableFile` if it is no text."""
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        content: str | bytes = _bytes_of(path)
        name = str(path)
    else:
        if not hasattr(source, "read"):
            raise BadArgument(f"A file is a path or an open file, not {type(source).__name__}")
        content = source.read()
        name = str(getattr(source, "name", "the open file"))
    return content if isinstance(content, str) else _decoded(content, name)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingFile(str(path)) from None
    except OSError as error:
        raise UnreadableFile(f"Cannot read {path}: {error.strerror}") from error


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"{name} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def encoded(text: str, what: str) -> str:
    """Percent-encoded UTF-8, as all FaaSpot clients send code, requirements and context; `what` of these it is.

    Raw text would do for nearly all, but only the encoded form is never taken for the other one. `BadArgument` for
    what is no text.
    """
    if not isinstance(text, str):
        raise BadArgument(f"{what} must be text, not {type(text).__name__}")
    try:
        return quote(text, safe="/")
    except UnicodeEncodeError as error:
        raise BadArgument(f"{what} has half a character at position {error.start}, which UTF-8 cannot hold") from None
