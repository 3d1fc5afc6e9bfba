"""`fas restore`: a data directory, or a PostgreSQL database with one, from what `fas backup` wrote.

All or nothing: the directory is made beside the wanted one and renamed when it is whole, the database is filled in one
transaction. Nothing of the file is taken for a path: its members have names that we know, or it is refused.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from faaspot_api.backup import (
    ADMIN_TOKEN,
    BLOBS,
    CANNOT_WORK,
    COMPLETE,
    FAILED,
    FILES,
    FORMAT,
    MANIFEST,
    OPEN_FILES,
    PRIVATE_KEY,
    PUBLIC_KEY,
    SECRET_FILES,
    STDOUT,
    TABLES,
    BackupError,
)
from faaspot_api.errors import ApiError
from faaspot_api.keys import private_key_file, public_of
from faaspot_api.services import open_store
from faaspot_api.settings import Settings
from faaspot_api.store import dump
from faaspot_api.store.blobs import Blobs
from faaspot_api.store.dump import Filling
from faaspot_api.store.engine import BadDatabaseError
from faaspot_api.supervisor.directory import DataDirectory, data_directory
from faaspot_api.supervisor.errors import CannotStartError

Members = Iterator[tuple[str, bytes]]
MODES = {PUBLIC_KEY: 0o644}
MARKER, RESTORING = "faaspot.json", ".restoring"
MOST_BYTES = 256 * 1024 * 1024
"""Of one member: more than a part of a table with the largest values has."""
_TABLE = re.compile(r"tables/([a-z_]{1,63})/\d{6}\.jsonl")
_BLOB = re.compile(r"blobs/[0-9a-f]{64}")
_ODD = (tarfile.TarError, EOFError, ValueError, KeyError, TypeError)
"""What a file that is no backup, or a broken one, raises when it is read."""


def restore(settings: Settings, file: str, spot_key: Path | None = None) -> int:
    """Make the settings' data directory (and fill their database) from `file`, "-" for stdin; the exit status.

    `spot_key`: the spots' private key, where the backup has none. The last line on stderr says how it went.
    """
    try:
        directory = data_directory(settings)
        beside = replace(directory, path=_workplace(directory))
        try:
            manifest = _restore(settings, file, beside, spot_key)
            _put(beside.path, directory.path)
        finally:
            shutil.rmtree(beside.path, ignore_errors=True)
    except (BackupError, BadDatabaseError, CannotStartError, OSError) as error:
        sys.stderr.write(f"faaspot: {error}\n")
        return CANNOT_WORK
    except ApiError as error:
        sys.stderr.write(f"faaspot: {error.message}\n")
        return FAILED
    _tell(directory.path, manifest, spot_key)
    return 0


def _workplace(directory: DataDirectory) -> Path:
    """Where the directory is made: beside it, or within it if it is there (it may be a volume). Raises BackupError.

    Takes away what a restore that was cut short has left there. One that is there is ours before anything is in it.
    """
    path, inside = directory.path, directory.path / RESTORING
    if path.exists() and (not path.is_dir() or any(entry != inside for entry in path.iterdir())):
        raise BackupError(f"{path} is not empty: restore into a new --data-dir, and start the platform on that")
    if path.exists():
        directory.take_over()
    place = inside if path.exists() else path.with_name(f".{path.name}{RESTORING}")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        shutil.rmtree(place)
    return place


def _put(made: Path, path: Path) -> None:
    """Put what was made in its place; the marker goes last, without which no start takes a directory for its own."""
    if made.parent != path:
        made.rename(path)
        return
    for entry in sorted(made.iterdir(), key=lambda entry: entry.name == MARKER):
        entry.rename(path / entry.name)


def _restore(settings: Settings, file: str, directory: DataDirectory, spot_key: Path | None) -> dict[str, Any]:
    try:
        with _opened(file) as source, tarfile.open(fileobj=source, mode="r|gz") as tar:
            members = _members(tar)
            manifest = _manifest(next(members, None))
            _fill(settings, directory, manifest, members)
    except _ODD as error:
        raise BackupError(f"{file} is not a whole backup of faaspot: {error}") from error
    _keys(directory, spot_key)
    # The marker says that it is whole; with it a start takes the directory for its own.
    directory.write(MARKER, json.dumps({"format": 1, "id": manifest["id"]}).encode() + b"\n", 0o644)
    directory.furnish()
    _hand_over(directory)
    return manifest


def _opened(file: str) -> IO[bytes]:
    return sys.stdin.buffer if file == STDOUT else Path(file).open("rb")


def _members(tar: tarfile.TarFile) -> Members:
    for member in tar:
        content = tar.extractfile(member) if member.isreg() and member.size <= MOST_BYTES else None
        if content is None:
            raise BackupError(f"the backup has a member that none of ours has: {member.name[:100]!r}")
        yield member.name, content.read()


def _manifest(first: tuple[str, bytes] | None) -> dict[str, Any]:
    if first is None or first[0] != MANIFEST:
        raise BackupError("this is not a backup of faaspot: it does not begin with its manifest")
    manifest: dict[str, Any] = json.loads(first[1])
    if manifest["format"] > FORMAT:
        raise BackupError(f"this backup is of a newer faaspot ({manifest['faaspot']}): restore it with that one")
    return manifest


def _fill(settings: Settings, directory: DataDirectory, manifest: dict[str, Any], members: Members) -> None:
    """Take all members in; commits the database last, when the whole file was good."""
    directory.path.mkdir(mode=0o700)
    (directory.path / "db").mkdir(mode=0o700)
    store = open_store(replace(settings, data_dir=directory.path))
    try:
        with dump.filling(store, manifest["revision"]) as filling:
            _take(members, filling, directory, Blobs.of(replace(settings, data_dir=directory.path)))
    finally:
        store.close()


def _take(members: Members, filling: Filling, directory: DataDirectory, blobs: Blobs) -> None:
    counts = {"blobs": 0}
    for name, content in members:
        if (table := _TABLE.fullmatch(name)) is not None:
            added = filling.add(table[1], content.decode().split("\n")[:-1])
            counts[TABLES + table[1]] = counts.get(TABLES + table[1], 0) + added
        elif _BLOB.fullmatch(name):
            if blobs.put(content) != name.removeprefix(BLOBS):
                raise BackupError(f"{name} holds other bytes than its name says")
            counts["blobs"] += 1
        elif name.removeprefix(FILES) in (*OPEN_FILES, *SECRET_FILES):
            known = name.removeprefix(FILES)
            directory.write(known, content, MODES.get(known, 0o600))
        elif name == COMPLETE:
            if {key: count for key, count in json.loads(content).items() if count} != _said(counts):
                raise BackupError("the backup is damaged: it does not hold as many rows as it says")
            return
        else:
            raise BackupError(f"the backup has a member that none of ours has: {name[:100]!r}")
    raise BackupError("this is not a whole backup: its last part is missing")


def _said(counts: dict[str, int]) -> dict[str, int]:
    return {key: count for key, count in counts.items() if count}


def _keys(directory: DataDirectory, spot_key: Path | None) -> None:
    """Put the private key that was said in its place. Raises BackupError for one that opens nothing of this."""
    if spot_key is None:
        return
    private = spot_key.read_bytes()
    public = directory.path / PUBLIC_KEY
    if len(private) != 32 or (public.exists() and public_of(private) != public.read_bytes()):
        raise BackupError(f"{spot_key} is not the private key of this backup's contexts")
    directory.write(PRIVATE_KEY, private, 0o600)


def _hand_over(directory: DataDirectory) -> None:
    """Give the service processes what is theirs."""
    if directory.uid is None:
        return
    for name in ("db", "blobs"):
        for path in (directory.path / name).rglob("*"):
            os.chown(path, directory.uid, directory.uid)


def _tell(path: Path, manifest: dict[str, Any], spot_key: Path | None) -> None:
    note = ""
    if not manifest["keys"] and spot_key is None:
        note = f"; it has no private key: put it to {private_key_file(path)}, or where your spots look, before a start"
    if not (path / ADMIN_TOKEN).exists():
        note += "; the next start makes a new admin token"
    sys.stderr.write(f"faaspot: {path} is restored from a backup of faaspot {manifest['faaspot']}{note}\n")
