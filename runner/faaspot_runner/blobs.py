"""What the API wrote for the spots, by digest: code, locks, sealed contexts. Read and verified, never written."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from pathlib import Path

from faaspot_runner.seal import open_sealed

_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobError(Exception):
    """A blob that is not there, or is not what its name says; the text says which."""


class Blobs:
    """The blob directory `D/blobs`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, digest: str) -> bytes:
        """The blob's bytes. Raises BlobError."""
        if not _DIGEST.fullmatch(digest):
            raise BlobError(f"{digest[:80]!r} is not a blob's digest")
        try:
            data = (self._root / digest[:2] / digest).read_bytes()
        except OSError as error:
            raise BlobError(f"the blob {digest} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise BlobError(f"the blob {digest} is damaged: its content has another digest")
        return data


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
