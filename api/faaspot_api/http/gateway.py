"""Where bytes that are no HTTP meet us: gunicorn's thread worker, with errors in our shape instead of its HTML page."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.gthread import ThreadWorker

from faaspot_api.http import problem

_log = structlog.get_logger(__name__)

BROKEN_BODY = (OSError, ValueError, ParseException)
"""What reading a request's body may raise: it broke off, came too slowly, or its chunks are none."""


MAX_DISCARD = 256 * 1024 * 1024
SILENCE_SECONDS = 1.0
DISCARD_SECONDS = 10.0
"""How much of a body that is too large, and for how long, is read only to be dropped."""
_PIECE = 64 * 1024


def discard(environ: Mapping[str, Any]) -> None:
    """Read on and drop what comes, within bounds, so that a client which listens only after it has sent hears us.

    Closing at once would reset the connection, and the client would find that instead of the answer.
    """
    connection: socket.socket | None = environ.get("gunicorn.socket")
    if connection is None:
        return
    stream, deadline, left = environ["wsgi.input"], time.monotonic() + DISCARD_SECONDS, MAX_DISCARD
    before = connection.gettimeout()
    connection.settimeout(SILENCE_SECONDS)
    try:
        while left > 0 and time.monotonic() < deadline and (piece := stream.read(_PIECE)):
            left -= len(piece)
    except BROKEN_BODY as error:
        _log.debug("a body that is too large ended", reason=repr(error))
    finally:
        connection.settimeout(before)


def gone(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """Whether the caller of this request has closed its connection; asks the kernel, reads nothing."""
    connection: socket.socket | None = environ.get("gunicorn.socket")
    if connection is None:
        return lambda: False
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return lambda: bool(poll.poll(0))


LINGER_SECONDS = 0.002
"""How long a thread that has answered waits for the connection's next request itself."""


class Worker(ThreadWorker):  # type: ignore[misc]
    """A worker whose own errors have the one shape. After each the connection closes.

    A caller who asks again at once is answered by the same thread: to hand the connection to the main thread and back
    costs more than to look whether it is readable.
    """

    def handle(self, conn: Any) -> Any:
        """Called by gunicorn in a thread, for one request."""
        while True:
            kept = super().handle(conn)
            if kept is not True or not self.alive or not self._asks_again(conn):
                return kept

    def _asks_again(self, conn: Any) -> bool:
        if conn.parser.unreader.buf.getvalue():
            return False  # gunicorn itself goes on with what it has read already
        if self.cfg.is_ssl or self.tpool._work_queue.qsize():
            return False  # others wait for a thread
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(LINGER_SECONDS * 1000))

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Called by gunicorn for what is no request that it could hand on."""
        if isinstance(exc, ParseException):
            _log.warning("no HTTP request", address=addr, reason=repr(exc))
        else:
            _log.error("internal error of the HTTP server", exc_info=exc)
        try:
            client.sendall(refusal(exc))
        except OSError as error:
            _log.debug("the caller has gone", address=addr, reason=repr(error))


def refusal(exc: Exception) -> bytes:
    """The whole answer, head and body."""
    status, code = _meaning(exc)
    message = str(exc) if isinstance(exc, ParseException) else "This is a defect of the platform; its log says more."
    body = problem.text(status, code, message)
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Connection: close\r\n"
        f"Content-Type: {problem.MEDIA}\r\n"
        f"X-Content-Type-Options: nosniff\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _meaning(exc: Exception) -> tuple[HTTPStatus, str]:
    match exc:
        case LimitRequestLine():
            return HTTPStatus.REQUEST_URI_TOO_LONG, "too_large"
        case LimitRequestHeaders():
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too_large"
        case ParseException():
            return HTTPStatus.BAD_REQUEST, "invalid"
    return HTTPStatus.INTERNAL_SERVER_ERROR, "internal"
