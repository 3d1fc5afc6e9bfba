"""A bucket's client. Imports `obstore`, the extra `faaspot[s3]`; get it by `bucket.opened`.

An object appears whole or not at all, under `PREFIX/ab/abcdef...`, as a blob in a directory does.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from faaspot_runner.contract.bucket import BucketAddress, BucketError

PIECE = 1024 * 1024
PART_BYTES = 16 * 1024 * 1024
PARTS_AT_ONCE = 2
"""What an upload has in memory is their product."""
CONNECT_SECONDS = 5
SILENCE_SECONDS = 30
WHOLE_SECONDS = 3600
"""Of one request, however much it moves."""
RETRIES = 3
OWNER = "platform"


class Bucket:
    """The blobs of one address. Nothing is asked before the first call. Thread-safe; made after any fork."""

    def __init__(self, address: BucketAddress) -> None:
        self._url = address.url.rstrip("/")
        self._store = _opened(address)

    def __str__(self) -> str:
        return self._url

    def check(self) -> None:
        """Raises BucketError if it cannot be read and written now."""
        try:
            with self._translated("check"):
                obstore.put(self._store, "check", b"faaspot was here\n")
                obstore.get(self._store, "check").bytes()
        except FileNotFoundError:
            raise BucketError(f"{self._url} is not there: make the bucket first") from None

    def claim(self, platform: str) -> None:
        """Write down whose it is. Raises BucketError if it is another's, whose blobs we would tidy away."""
        try:
            with self._translated(OWNER):
                known = bytes(obstore.get(self._store, OWNER).bytes()).decode("ascii", "replace").strip()
        except FileNotFoundError:
            with self._translated("the bucket"):
                obstore.put(self._store, OWNER, platform.encode())
            return
        if known != platform:
            raise BucketError(f"{self._url} has the blobs of another platform ({known[:40]}): give another prefix")

    def put(self, digest: str, content: bytes | Path | IO[bytes]) -> None:
        """Keep it under this name, again if it is there: so it is young. Raises BucketError."""
        with self._translated(digest):
            obstore.put(self._store, _key(digest), content, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)

    def open(self, digest: str) -> tuple[int, Iterator[bytes]]:
        """The size and the bytes in pieces, not compared. Raises FileNotFoundError, BucketError; so do the pieces."""
        with self._translated(digest):
            found = obstore.get(self._store, _key(digest))
            return found.meta["size"], self._pieces(digest, iter(found.stream(PIECE)))

    def age(self, digest: str) -> float | None:
        """Seconds since it was put, None if it is not there. Raises BucketError."""
        try:
            with self._translated(digest):
                return time.time() - obstore.head(self._store, _key(digest))["last_modified"].timestamp()
        except FileNotFoundError:
            return None

    def delete(self, digest: str) -> None:
        """Forget it; no error if it is not there. Raises BucketError."""
        with contextlib.suppress(FileNotFoundError), self._translated(digest):
            obstore.delete(self._store, _key(digest))

    def old(self, part: int, seconds: float) -> list[str]:
        """The names of those in one of 256 parts that nobody has put for so many seconds. Raises BucketError."""
        until = time.time() - seconds
        with self._translated(f"part {part:02x}"):
            return [
                each["path"].rpartition("/")[2]
                for some in obstore.list(self._store, f"{part:02x}")
                for each in some
                if each["last_modified"].timestamp() <= until
            ]

    # ------------------------------------------------------------ as a spot's source of blobs

    def fetch(self, digest: str, into: IO[bytes]) -> None:
        """Write the blob into a file. Raises OSError, also for bytes that are not those of the digest."""
        found = hashlib.sha256()
        for piece in self.open(digest)[1]:
            found.update(piece)
            into.write(piece)
        if found.hexdigest() != digest:
            raise BucketError(f"the blob {digest} came with other bytes than its name says")

    def bring(self, digest: str, file: IO[bytes], size: int) -> None:
        """Keep what is in a file, from its place on. Raises OSError."""
        self.put(digest, file)

    # ------------------------------------------------------------ parts

    def _pieces(self, digest: str, stream: Iterator[bytes]) -> Iterator[bytes]:
        with self._translated(digest):
            for piece in stream:
                yield bytes(piece)

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(f"{self._url} has no {what}") from error
        except (BaseError, OSError) as error:
            raise BucketError(f"{self._url} failed with {what}: {_line(error)}") from error


def _opened(address: BucketAddress) -> S3Store:
    parts = urlsplit(address.url)
    said = {
        "endpoint": address.endpoint,
        "region": address.region or "us-east-1",
        "access_key_id": address.key_id,
        "secret_access_key": address.secret,
    }
    return S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        client_options={
            "allow_http": address.endpoint.startswith("http:"),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=SILENCE_SECONDS),
            "timeout": timedelta(seconds=WHOLE_SECONDS),
        },
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=SILENCE_SECONDS)},
        **{name: text for name, text in said.items() if text},  # type: ignore[arg-type]
    )


def _key(digest: str) -> str:
    return f"{digest[:2]}/{digest}"


def _line(error: BaseException) -> str:
    """The error's text on one bounded line, without the client's inner state: the store's own may be a page of XML."""
    return " ".join(str(error).partition("Debug source")[0].split())[:300]
