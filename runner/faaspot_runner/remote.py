"""The API as a spot on another host sees it: joining, blobs. Every answer is bounded and checked."""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from faaspot_runner.contract.spots import MAX_ARCHIVE_BYTES
from faaspot_runner.settings import Settings

SECONDS = 30.0
"""Of silence."""
MAX_ANSWER = 1024 * 1024
PIECE = 1024 * 1024
HINT = ". Say --certificate FILE with who vouches for its certificate (PEM)"


class RemoteError(Exception):
    """The API could not be asked, or refused; the text says why. `status`: of its answer, 0 without one."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What the API gives to a spot that it lets in; `credentials` are sealed."""

    ip: str
    token: str
    credentials: str


class Api:
    """One API. `token` is read anew for each request by `of`, so that a new one counts at once. Thread-safe."""

    def __init__(self, url: str, token: str, authority: str = "") -> None:
        """`authority`: PEM file of who vouches for the API's certificate, "" for the machine's own list."""
        self._url = url.rstrip("/")
        self._token = token
        self._authority = authority

    @classmethod
    def of(cls, settings: Settings) -> Api:
        """The API of a spot that has joined. Raises OSError if its token cannot be read."""
        return cls(settings.api, settings.token_file.read_text().strip(), settings.api_ca)

    def join(self, ip: str, key: str) -> Joined:
        """Ask to be a spot. Raises RemoteError."""
        body = json.dumps({"ip": ip, "key": key}).encode()
        with self._asked("PUT", "join", body) as answer:
            text = answer.read(MAX_ANSWER)
        try:
            return Joined(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise RemoteError(f"{self._url} is no faaspot of this version: its answer cannot be read.") from error

    def fetch(self, digest: str, into: IO[bytes]) -> None:
        """Write the blob into a file. Raises RemoteError, also for bytes that are not those of the digest, OSError."""
        found, size = hashlib.sha256(), 0
        with self._asked("GET", f"blobs/{digest}") as answer:
            while piece := answer.read(PIECE):
                found.update(piece)
                into.write(piece)
                size += len(piece)
                if size > MAX_ARCHIVE_BYTES:
                    raise RemoteError(f"the blob {digest} is too large")
        if found.hexdigest() != digest:
            raise RemoteError(f"the blob {digest} came with other bytes than its name says")

    def bring(self, digest: str, file: IO[bytes], size: int) -> None:
        """Have the API keep what is in a file. Raises RemoteError, OSError."""
        with self._asked("PUT", f"blobs/{digest}", file, size) as answer:
            answer.read(MAX_ANSWER)

    @contextmanager
    def _asked(self, method: str, path: str, body: Any = None, size: int | None = None) -> Iterator[IO[bytes]]:
        """The answer, if it is a good one. Raises RemoteError."""
        headers = {"Authorization": f"Token {self._token}"}
        if body is not None:
            headers["Content-Type"] = "application/json" if size is None else "application/octet-stream"
        if size is not None:
            headers["Content-Length"] = str(size)
        request = urllib.request.Request(  # noqa: S310 (the scheme is checked where the URL is said)
            f"{self._url}/v1/{path}", data=body, headers=headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=SECONDS, context=self._context()) as answer:  # noqa: S310
                yield answer
        except urllib.error.HTTPError as error:
            with error:
                raise RemoteError(_reason(error), error.code) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            hint = HINT if isinstance(reason, ssl.SSLCertVerificationError) else ""
            raise RemoteError(f"{self._url} cannot be reached: {reason}{hint}") from error

    def _context(self) -> ssl.SSLContext | None:
        if not self._url.startswith("https:"):
            return None
        context = ssl.create_default_context(cafile=self._authority or None)
        if self._authority:  # what is given is trusted itself, be it an authority's or the API's own
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def _reason(error: urllib.error.HTTPError) -> str:
    """What the API says of its refusal."""
    try:
        told = json.loads(error.read(MAX_ANSWER))
        return str(told["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"it answered {error.code} {error.reason}"


def write_private(path: Path, data: bytes) -> None:
    """Replace a file at once, readable for its owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with fresh.open("xb") as file:
        fresh.chmod(0o600)
        file.write(data)
    fresh.replace(path)
