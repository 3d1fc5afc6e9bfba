"""What the API has for the spots, by digest: code, locks, sealed contexts, packed environments. Verified at each read.

A spot beside the API reads its directory. One on another host, and any where the API keeps them in a bucket, has a
directory of its own, into which it fetches what is missing; it appears there whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import IO, Protocol

from faaspot_runner.contract import MAX_ARGS_BYTES, is_digest
from faaspot_runner.contract.bucket import opened
from faaspot_runner.contract.large import KEPT_FREE
from faaspot_runner.environments.staging import locked
from faaspot_runner.remote import Api, RemoteError
from faaspot_runner.seal import open_sealed
from faaspot_runner.settings import Settings

LARGE_SECONDS = 3600.0
FETCH_SECONDS = 300.0
"""How long others wait for who fetches a blob."""


class BlobError(Exception):
    """A blob that is not there, or is not what its name says; the text says which."""


class Source(Protocol):
    """Where the blobs are, if not in our directory: the API, or a bucket. Both methods raise RemoteError, OSError."""

    def fetch(self, digest: str, into: IO[bytes]) -> None:
        """Write the blob into a file, if its bytes are those of its digest."""

    def bring(self, digest: str, file: IO[bytes], size: int) -> None:
        """Have what is in the file kept, from where it stands."""


class Blobs:
    """The blob directory `D/blobs`. `source`: where to fetch what is not in it, and bring what is new; None: it is
    there.

    Thread-safe, and safe between processes.
    """

    def __init__(self, root: Path, source: Callable[[], Source] | None = None) -> None:
        self._root = root
        self._source = source

    @classmethod
    def of(cls, settings: Settings) -> Blobs:
        """The blobs of a spot with these settings."""
        source: Callable[[], Source] | None = None
        if settings.api:
            source = partial(Api.of, settings)
        elif settings.bucket:
            source = cache(lambda: opened(settings.bucket_address()))
        return cls(settings.blob_directory, source)

    def read(self, digest: str) -> bytes:
        """The blob's bytes. Raises BlobError."""
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BlobError(f"the blob {digest} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise self._damaged(path)
        return data

    def path(self, digest: str) -> Path:
        """The blob's file, fetched if it is not here: then its content is what its name says. Raises BlobError."""
        if not is_digest(digest):
            raise BlobError(f"{digest[:80]!r} is not a blob's digest")
        path = self._root / digest[:2] / digest
        if self._source is not None:
            self._have(path, digest, self._source)
        return path

    def _have(self, path: Path, digest: str, source: Callable[[], Source]) -> None:
        """Fetch it unless it is here, which is noted for `sweep`. Raises BlobError."""
        try:
            os.utime(path)
        except FileNotFoundError:
            try:
                self._fetch(path, digest, source)
            except (RemoteError, OSError) as error:
                raise BlobError(f"the blob {digest} could not be fetched: {error}") from error
        except OSError as error:
            raise BlobError(f"the blob {digest} cannot be read: {error.strerror}") from error

    def _fetch(self, path: Path, digest: str, source: Callable[[], Source]) -> None:
        """One fetches, the others wait for it: all runs of a burst want the same. Raises RemoteError, OSError."""
        deadline = time.monotonic() + FETCH_SECONDS

        def wait() -> None:
            if time.monotonic() > deadline:
                raise RemoteError(f"another process fetches it for more than {FETCH_SECONDS:g} s")

        locks = self._root / ".locks"
        locks.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(locks / digest, wait):
            try:
                if not path.exists():
                    with self._new(path) as file:
                        source().fetch(digest, file)
            finally:
                (locks / digest).unlink()

    def sweep(self, seconds: float) -> None:
        """Of what was fetched remove all that nobody asked for in so many seconds, half-written files too.

        What is large goes after `LARGE_SECONDS`: each run may have args of its own.
        """
        if self._source is None:
            return
        now = time.time()
        for path in self._root.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                found = path.stat()
                if now - found.st_mtime > (min(seconds, LARGE_SECONDS) if found.st_size > MAX_ARGS_BYTES else seconds):
                    path.unlink()

    def checked(self, digest: str) -> Path:
        """The same with its content compared, wherever it came from. Raises BlobError."""
        with self.opened(digest):
            return self.path(digest)

    def opened(self, digest: str, size: int = 0) -> IO[bytes]:
        """The blob's file, to be read from its beginning; its content was compared. Raises BlobError.

        `size`: bytes that are fetched for it only if a part of the disk is left to others.
        """
        if self._source is not None and size and is_digest(digest):
            self._check_room(digest, size)
        path = self.path(digest)
        try:
            file = path.open("rb")
            try:
                if hashlib.file_digest(file, "sha256").hexdigest() == digest:
                    file.seek(0)
                    return file
            except OSError:
                file.close()
                raise
        except OSError as error:
            raise BlobError(f"the blob {digest} cannot be read: {error.strerror}") from error
        file.close()
        raise self._damaged(path)

    def _check_room(self, digest: str, size: int) -> None:
        """Raises BlobError where a blob that is not here would take what the disk keeps free."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk = os.statvfs(self._root)
        short = size > (disk.f_bavail - KEPT_FREE * disk.f_blocks) * disk.f_frsize
        if short and not (self._root / digest[:2] / digest).exists():
            raise BlobError(f"the blob {digest} of {size} bytes is not fetched: the disk is nearly full")

    def _damaged(self, path: Path) -> BlobError:
        """What is wrong with it. A copy that was fetched is thrown away: the next one to ask fetches it anew."""
        if self._source is not None:
            path.unlink(missing_ok=True)
        return BlobError(f"the blob {path.name} is damaged: its content has another digest")

    def keep(self, file: IO[bytes], digest: str) -> None:
        """Have the platform keep what is in a file, from its beginning. Raises BlobError."""
        size = os.fstat(file.fileno()).st_size
        file.seek(0)
        try:
            if self._source is not None:
                self._source().bring(digest, file, size)
                return
            path = self._root / digest[:2] / digest
            try:
                os.utime(path)  # it is as needed as a new one: nobody may tidy it away now
            except FileNotFoundError:
                with self._new(path) as copy:
                    shutil.copyfileobj(file, copy)
        except (RemoteError, OSError) as error:
            raise BlobError(f"the blob {digest} could not be kept: {error}") from error

    def spool(self) -> IO[bytes]:
        """A file without a name beside the blobs, for what may become one. Raises OSError."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return TemporaryFile(dir=self._root)

    @contextmanager
    def _new(self, path: Path) -> Iterator[IO[bytes]]:
        """A file that gets its name when the block ends well. It belongs to whom the directory belongs, the API."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = self._root.stat()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
            try:
                for each in (path.parent, Path(file.name)):
                    if each.stat().st_uid != owner.st_uid:
                        os.chown(each, owner.st_uid, owner.st_gid)
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise


class Contexts:
    """Opened contexts, a few of them kept in this process's memory only. Thread-safe."""

    def __init__(self, blobs: Blobs, key: Path, keep: int = 256) -> None:
        """`key`: file with the spots' private key, 32 raw bytes; read when the first context is opened."""
        self._blobs = blobs
        self._key = key
        self._keep = keep
        self._lock = threading.Lock()
        self._opened: OrderedDict[tuple[str, str], str] = OrderedDict()

    def open(self, digest: str | None, version_id: str) -> str:
        """The context as JSON text of a dict, "{}" if there is none. Raises BlobError; its text has nothing of it."""
        if digest is None:
            return "{}"
        with self._lock:
            known = self._opened.get((digest, version_id))
            if known is not None:
                self._opened.move_to_end((digest, version_id))
                return known
        text = self._read(digest, version_id)
        with self._lock:
            self._opened[digest, version_id] = text
            if len(self._opened) > self._keep:
                self._opened.popitem(last=False)
        return text

    def _read(self, digest: str, version_id: str) -> str:
        try:
            text = open_sealed(self._key.read_bytes(), self._blobs.read(digest), version_id).decode()
            whole = isinstance(json.loads(text), dict)
        except OSError as error:
            raise BlobError(f"the spots' key {self._key.name} cannot be read: {error.strerror}") from error
        except ValueError:
            # Neither the text nor the decoder's complaint may go on: both could show a part of the secret.
            whole = False
        if not whole:
            raise BlobError(f"the context {digest} cannot be opened on this spot")
        return text
