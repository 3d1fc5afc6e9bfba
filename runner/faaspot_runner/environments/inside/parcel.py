"""Sends a directory tree out of a build sandbox as one stream: entries of a JSON head and, for files, contents.

    4 bytes big-endian length, {"kind": "directory", "path": "lib"}
    4 bytes big-endian length, {"kind": "file", "path": "lib/a.py", "size": 12, "program": false}, 12 bytes
    4 bytes big-endian length, {"kind": "link", "path": "b", "target": "lib"}
    4 bytes big-endian length, {"kind": "end"}

It says less than tar: no owners, no devices, no long-name tricks, nothing that its reader (`unpack.py`) would have to
refuse a hundred ways. A directory comes before what is in it.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, BinaryIO


def send(directory: str, out: BinaryIO, without: AbstractSet[str] = frozenset()) -> None:
    """Write the tree below `directory`. What is neither file, directory nor link is left out, as are these paths."""
    _send_directory(directory, "", out, without)
    _head(out, {"kind": "end"})


def _send_directory(root: str, path: str, out: BinaryIO, without: AbstractSet[str]) -> None:
    for name in sorted(os.listdir(os.path.join(root, path))):
        at = os.path.join(path, name)
        if at in without:
            continue
        status = os.lstat(os.path.join(root, at))
        if stat.S_ISLNK(status.st_mode):
            _head(out, {"kind": "link", "path": at, "target": os.readlink(os.path.join(root, at))})
        elif stat.S_ISDIR(status.st_mode):
            _head(out, {"kind": "directory", "path": at})
            _send_directory(root, at, out, without)
        elif stat.S_ISREG(status.st_mode):
            _send_file(root, at, out)


def _send_file(root: str, path: str, out: BinaryIO) -> None:
    with open(os.path.join(root, path), "rb") as file:
        status = os.fstat(file.fileno())
        program = bool(status.st_mode & stat.S_IXUSR)
        _head(out, {"kind": "file", "path": path, "size": status.st_size, "program": program})
        shutil.copyfileobj(file, out)


def _head(out: BinaryIO, head: Mapping[str, Any]) -> None:
    text = json.dumps(head).encode()
    out.write(struct.pack(">I", len(text)) + text)
