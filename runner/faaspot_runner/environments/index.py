"""A relay of the package index for build sandboxes, which have no network: pages, the files on them, nothing else.

The far side is hostile: it may ask for anything. It is answered from the operator's indexes alone, with project pages
whose links lead back here, and with files that such a page has named before. So code that runs at build time reaches
the index and no other address, and cannot make the host fetch one for it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx2

from faaspot_runner.environments import page

MAX_BYTES = 4 * 2**30
MAX_REQUESTS = 20_000
MAX_CONNECTIONS = 32
MAX_PAGE_BYTES = 64 * 1024 * 1024
IDLE_SECONDS = 120.0

_CHUNK = 256 * 1024
_PAGE_PATH = re.compile(r"/simple/([^/?#]+)/?")
_FILE_PATH = re.compile(r"/files/([0-9]{1,9})/([^/?#]+)")

Accept = Callable[[socket.socket], socket.socket | None]


class UnavailableError(Exception):
    """What was asked for cannot be had; `status` is the answer's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Index:
    """The operator's indexes as one, for one build. Thread-safe; bounded in bytes, requests and time."""

    def __init__(self, indexes: Sequence[str], environ: Mapping[str, str], deadline: float) -> None:
        """`indexes`: addresses of simple indexes, the first that has a project wins. `environ`: as uv gets it."""
        self._indexes = [index.rstrip("/") for index in indexes]
        self._deadline = deadline
        self._lock = threading.Lock()
        self._files: list[page.File] = []
        self._numbers: dict[str, int] = {}
        self._bytes = 0
        self._requests = 0
        self._client = httpx2.Client(
            verify=_trust(environ),
            mounts=_proxies(environ),
            trust_env=False,
            follow_redirects=True,
            max_redirects=5,
            timeout=httpx2.Timeout(60.0),
            headers={"User-Agent": "faaspot"},
        )

    def close(self) -> None:
        """Drop the connections upstream."""
        self._client.close()

    def project(self, name: str) -> bytes:
        """A project's page as JSON. Raises UnavailableError."""
        self._spend(requests=1)
        if not page.is_project(name):
            raise UnavailableError(404, "no such project")
        for index in self._indexes:
            found = self._page(f"{index}/{name}/")
            if found is not None:
                return page.render(name, found, self._link)
        raise UnavailableError(404, "no such project")

    @contextlib.contextmanager
    def file(self, number: int, name: str) -> Iterator[tuple[httpx2.Response, Iterator[bytes]]]:
        """A file, or its metadata, that a page has named: the answer and its blocks. Raises UnavailableError."""
        self._spend(requests=1)
        with self._lock:
            file = self._files[number] if number < len(self._files) else None
        if file is None or name not in (file.name, file.name + ".metadata"):
            raise UnavailableError(404, "no page has named this file")
        if name != file.name and file.metadata is None:
            raise UnavailableError(404, "this file has no metadata beside it")
        url = file.url if name == file.name else file.url + ".metadata"
        with _refused(), self._client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response:
            if response.status_code != 200:
                raise UnavailableError(404 if response.status_code in (404, 410) else 502, "the index did not give it")
            yield response, self._counted(response)

    def _page(self, url: str) -> tuple[page.File, ...] | None:
        """The files of a project's page, None if this index does not have the project."""
        with _refused(), self._client.stream("GET", url, headers={"Accept": page.ACCEPT}) as response:
            if response.status_code in (404, 410):
                return None
            if response.status_code != 200:
                raise UnavailableError(502, f"the index answered {response.status_code}")
            body = bytearray()
            for block in response.iter_bytes(_CHUNK):
                self._spend(size=len(block))
                body += block
                if len(body) > MAX_PAGE_BYTES:
                    raise UnavailableError(502, "a page of the index is too large")
            try:
                return page.parse(bytes(body), response.headers.get("content-type", ""), str(response.url))
            except (ValueError, RecursionError) as error:
                raise UnavailableError(502, "a page of the index cannot be read") from error

    def _link(self, file: page.File) -> str:
        with self._lock:
            number = self._numbers.setdefault(file.url, len(self._files))
            if number == len(self._files):
                self._files.append(file)
        return f"/files/{number}/{file.name}"

    def _counted(self, response: httpx2.Response) -> Iterator[bytes]:
        for block in response.iter_raw(_CHUNK):
            self._spend(size=len(block))
            yield block

    def _spend(self, *, requests: int = 0, size: int = 0) -> None:
        with self._lock:
            self._requests += requests
            self._bytes += size
            spent = self._requests > MAX_REQUESTS or self._bytes > MAX_BYTES
        if spent:
            raise UnavailableError(403, "this build has asked the index for too much")
        if time.monotonic() >= self._deadline:
            raise UnavailableError(403, "this build's time is over")


def _trust(environ: Mapping[str, str]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=environ.get("SSL_CERT_FILE"), capath=environ.get("SSL_CERT_DIR"))


def _proxies(environ: Mapping[str, str]) -> dict[str, httpx2.HTTPTransport | None]:
    """The operator's proxies by address pattern; None for what is to be reached directly."""
    said = {name.lower(): value for name, value in environ.items() if name.lower().endswith("_proxy")}
    mounts: dict[str, httpx2.HTTPTransport | None] = {}
    for scheme in ("http", "https"):
        proxy = said.get(f"{scheme}_proxy") or said.get("all_proxy")
        if proxy:
            mounts[f"{scheme}://"] = httpx2.HTTPTransport(proxy=proxy, verify=_trust(environ))
    for host in filter(None, (part.strip().lstrip(".") for part in said.get("no_proxy", "").split(","))):
        if host == "*":
            return {}
        mounts |= {f"all://{host}": None, f"all://*.{host}": None}
    return mounts


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """The network's failures as answers."""
    try:
        yield
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise UnavailableError(502, f"the index cannot be reached: {type(error).__name__}") from error


class _Handler(BaseHTTPRequestHandler):
    """One connection out of a sandbox. GET only."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server_version = "faaspot"
    sys_version = ""

    def __init__(self, connection: socket.socket, index: Index) -> None:
        self._index = index
        super().__init__(connection, ("sandbox", 0), None)  # type: ignore[arg-type]  # no server: we are handed sockets

    def do_GET(self) -> None:
        try:
            self._answer()
        except UnavailableError as error:
            self._text(error.status, str(error))

    def do_HEAD(self) -> None:
        """Refused in the way that makes uv read a wheel's metadata from the whole file instead of a range of it."""
        self.send_response(405)
        self.send_header("Allow", "GET")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self) -> None:
        if match := _PAGE_PATH.fullmatch(self.path):
            self._body(200, page.JSON, self._index.project(match.group(1)))
        elif match := _FILE_PATH.fullmatch(self.path):
            self._file(int(match.group(1)), match.group(2))
        else:
            raise UnavailableError(404, "there are /simple/PROJECT/ and the files that it names, nothing else")

    def _file(self, number: int, name: str) -> None:
        with self._index.file(number, name) as (response, blocks):
            self.send_response(200)
            for header in ("Content-Type", "Content-Length", "Content-Encoding"):
                if header in response.headers:
                    self.send_header(header, response.headers[header])
            # Once the head is out a failure can only be told by ending too early.
            self.close_connection = True
            self.send_header("Connection", "close")
            self.end_headers()
            with contextlib.suppress(UnavailableError, httpx2.HTTPError, OSError):
                for block in blocks:
                    self.wfile.write(block)

    def _text(self, status: int, text: str) -> None:
        self._body(status, "text/plain; charset=utf-8", text.encode())

    def _body(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name in the base class)
        """Nothing: what a build asks for is in uv's own words in its log."""


@contextlib.contextmanager
def relayed(index: Index, accept: Accept) -> Iterator[socket.socket]:
    """Serve `index` to whatever connections come out of the socket that is yielded; `accept` takes the next from ours.

    At the end every connection is cut and every thread has ended.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    desk = _Desk(index)
    listener = threading.Thread(target=desk.listen, args=(ours, accept), name="index-relay", daemon=True)
    listener.start()
    try:
        yield theirs
    finally:
        theirs.close()
        with contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)
        listener.join()
        desk.close()
        ours.close()


class _Desk:
    """A thread for each connection, at most `MAX_CONNECTIONS` at once."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}

    def listen(self, ours: socket.socket, accept: Accept) -> None:
        while (connection := accept(ours)) is not None:
            with self._lock:
                if len(self._open) >= MAX_CONNECTIONS:
                    connection.close()
                    continue
                thread = threading.Thread(target=self._serve, args=(connection,), name="index-relay", daemon=True)
                self._open[thread] = connection
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        # The far side may go, or send what is no HTTP, at any moment: that is the end of this connection only.
        with connection, contextlib.suppress(OSError, ValueError):
            _Handler(connection, self._index)
        with self._lock:
            del self._open[threading.current_thread()]

    def close(self) -> None:
        """Cut what is open and wait for its threads."""
        with self._lock:
            still = dict(self._open)
        for connection in still.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in still:
            thread.join()
