"""An environment as one file: the stream of `inside/parcel.py`, compressed; read as carefully as what a build sends."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from faaspot_runner.environments.assemble import MANIFEST
from faaspot_runner.environments.inside import parcel
from faaspot_runner.environments.unpack import ParcelError, unpack

OWN = frozenset({MANIFEST, "pyvenv.cfg", "bin/python"})
"""What belongs to the host: it is made anew where the archive is unpacked."""
LEVEL = 1
_PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """An archive of the environment of that name, its content compared with its digest."""

    name: str
    file: Path


def pack(tree: Path, file: IO[bytes]) -> str:
    """Write the environment at `tree` into an empty file; the digest of what was written. Raises OSError."""
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=LEVEL, mtime=0) as stream:
        parcel.send(str(tree), cast(BinaryIO, stream), OWN)
    file.flush()
    file.seek(0)
    found = hashlib.sha256()
    while piece := file.read(_PIECE):
        found.update(piece)
    return found.hexdigest()


def unpacked(packed: Packed, destination: Path) -> None:
    """Make the packages of an archive in `destination`, an empty directory of ours. Raises BuildError, OSError."""
    try:
        with gzip.open(packed.file, "rb") as stream:
            unpack(cast(BinaryIO, stream), destination, rewrite=lambda _, block: block)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ParcelError(f"the archive is damaged ({error})") from error
