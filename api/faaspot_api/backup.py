"""`fas backup`: one file with all that cannot be made again, whether the platform runs or not.

A gzipped tar: `manifest.json` first, the few files of the data directory that count, the tables as lines of JSON, the
blobs that deployments need, `complete.json` last. The database is read at one moment. A blob of that moment that is
gone when its turn comes was deleted meanwhile: then all begins anew. Redis is not kept (it holds hints), nor are
environments (they are made again from their locks) and logs of the processes.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from faaspot_api.errors import ApiError
from faaspot_api.keys import private_key_file, public_key_file
from faaspot_api.services import open_store
from faaspot_api.settings import Settings
from faaspot_api.store import dump
from faaspot_api.store.blobs import Blobs, BrokenBlobError
from faaspot_api.store.engine import BadDatabaseError, Store, Transaction

FORMAT = 1
MANIFEST, COMPLETE = "manifest.json", "complete.json"
TABLES, BLOBS, FILES = "tables/", "blobs/", "files/"
PUBLIC_KEY, PRIVATE_KEY, ADMIN_TOKEN, SPOTS = "keys/spot.pub", "keys/spot.key", "admin-token", "spots.json"
OPEN_FILES = (PUBLIC_KEY, SPOTS)
SECRET_FILES = (PRIVATE_KEY, ADMIN_TOKEN)
"""What opens contexts, and the platform: left out with `--without-keys`."""
PART_BYTES = 16 * 1024 * 1024
"""What of a table is one member of the file: that much is in memory at a time."""
LEFT_OUT = "left out"
TRIES = 5
STDOUT = "-"
FAILED, CANNOT_WORK = 1, 2


class BackupError(Exception):
    """A backup that cannot be made or used; the text says what to do."""


def backup(settings: Settings, file: str, *, keys: bool = True) -> int:
    """Write the backup to `file`, "-" for stdout; the exit status. The last line on stderr says how it went."""
    try:
        _check(settings, file)
        store = open_store(settings)
        try:
            _tell(_written(settings, store, file, keys), file, keys)
        finally:
            store.close()
    except (BackupError, BadDatabaseError, BrokenBlobError, OSError) as error:
        sys.stderr.write(f"faaspot: {error}\n")
        return CANNOT_WORK
    except ApiError as error:
        sys.stderr.write(f"faaspot: {error.message}\n")
        return FAILED
    return 0


def _check(settings: Settings, file: str) -> None:
    if not (settings.data_dir / "faaspot.json").exists():
        raise BackupError(f"{settings.data_dir} is not a faaspot data directory: say which with --data-dir")
    if not settings.database_url and not (settings.data_dir / "db" / "faaspot.db").exists():
        raise BackupError(f"{settings.data_dir} has no database; was it started with --database-url? Say it here, too")
    if file != STDOUT and Path(file).exists():
        raise BackupError(f"{file} is there already: give another name, or remove it")


def _written(settings: Settings, store: Store, file: str, keys: bool) -> dict[str, int]:
    """Write it; what it holds. Raises BrokenBlobError if a blob is missing for good."""
    if file == STDOUT:
        return _write(settings, store, sys.stdout.buffer, keys)
    for left in reversed(range(TRIES)):
        try:
            return _write_file(settings, store, Path(file), keys)
        except BrokenBlobError:
            if not left:
                raise
    raise AssertionError("a try ends in one way or the other")


def _write_file(settings: Settings, store: Store, path: Path, keys: bool) -> dict[str, int]:
    """Write it beside and rename it: a file of this name is always whole."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            counts = _write(settings, store, out, keys)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return counts


def _write(settings: Settings, store: Store, out: IO[bytes], keys: bool) -> dict[str, int]:
    data, counts = settings.data_dir, dict[str, int]()
    with (
        store.read_at_one_moment() as transaction,
        gzip.GzipFile(fileobj=out, mode="wb", compresslevel=5) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        revision = dump.revision(transaction)
        _add(tar, MANIFEST, _json({**_manifest(data), "revision": revision, "keys": _has_keys(data, keys)}))
        for name in (*OPEN_FILES, *(SECRET_FILES if keys else ())):
            if (data / name).exists():
                _add(tar, FILES + name, (data / name).read_bytes())
        counts |= _tables(tar, transaction)
        digests, blobs = dump.needed_blobs(transaction), Blobs.of(settings)
        for digest in digests:
            _add(tar, BLOBS + digest, blobs.get(digest))
        counts["blobs"] = len(digests)
        _add(tar, COMPLETE, _json(counts))
        counts[LEFT_OUT] = dump.large_values(transaction)
    return counts


def _manifest(data: Path) -> dict[str, Any]:
    known = json.loads((data / "faaspot.json").read_text())
    return {"format": FORMAT, "faaspot": version("faaspot"), "id": known["id"], "made": time.time()}


def _has_keys(data: Path, keys: bool) -> bool:
    return keys and private_key_file(data).exists() and public_key_file(data).exists()


def _tables(tar: tarfile.TarFile, transaction: Transaction) -> dict[str, int]:
    counts = {}
    for name, lines in dump.lines(transaction):
        counts[TABLES + name] = 0
        for number, (part, rows) in enumerate(_parts(lines)):
            _add(tar, f"{TABLES}{name}/{number:06}.jsonl", part)
            counts[TABLES + name] += rows
    return counts


def _parts(lines: Iterator[str]) -> Iterator[tuple[bytes, int]]:
    """The lines in pieces of about `PART_BYTES`, each with how many it has."""
    gathered, size = [], 0
    for line in lines:
        gathered.append(line.encode() + b"\n")
        size += len(gathered[-1])
        if size >= PART_BYTES:
            yield b"".join(gathered), len(gathered)
            gathered, size = [], 0
    if gathered:
        yield b"".join(gathered), len(gathered)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
    tar.addfile(member, io.BytesIO(content))


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"


def _tell(counts: dict[str, int], file: str, keys: bool) -> None:
    what = f"{counts.get(TABLES + 'deployments', 0)} deployments, {counts.get(TABLES + 'executions', 0)} executions"
    about = "it holds the key that opens every context, and the admin token: keep it as you keep those"
    if not keys:
        about = "without keys: its contexts open only with keys/spot.key, so keep that elsewhere"
    if left := counts[LEFT_OUT]:
        about += f". Not in it: {left} args and results of more than 8 MB, to which records refer"
    where = "" if file == STDOUT else f" in {file}"
    sys.stderr.write(f"faaspot: {what}, {counts['blobs']} blobs{where}; {about}\n")
