"""Where bytes that are no HTTP meet us: gunicorn's thread worker, with errors in our shape instead of its HTML page."""

from __future__ import annotations

import contextlib
import logging
import math
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import structlog
from gunicorn.glogging import Logger
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.gthread import _DEFER, ThreadWorker

from faaspot_api.domain import traces
from faaspot_api.http import problem

_log = structlog.get_logger(__name__)

BROKEN_BODY = (OSError, ValueError, ParseException)
"""What reading a request's body may raise: it broke off, came too slowly, or its chunks are none."""


MAX_DISCARD = 256 * 1024 * 1024
SILENCE_SECONDS = 1.0
DISCARD_SECONDS = 10.0
"""How much of a body that is too large, and for how long, is read only to be dropped."""
_PIECE = 64 * 1024
LEAVE_SECONDS = 2.0
FIRST_BYTE_SECONDS = 0.05
"""How long a thread waits with a new connection that says nothing; then it waits without one."""
NEXT_BYTE_SECONDS = 10
"""How long a thread waits within a request for its next byte; then the connection closes."""


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


DEPART_SECONDS = 3.0
"""How long before a stopping process' grace is over those who still wait are sent away; looked at every 2 s."""
LINGER_SECONDS = 0.002
"""How long a thread that has answered waits for the connection's next request itself."""


class Departure:
    """When this process has to have answered everybody."""

    def __init__(self) -> None:
        self.at = math.inf

    @property
    def is_near(self) -> bool:
        """Whether nobody may wait here any longer."""
        return time.monotonic() >= self.at


departure = Departure()


class TlsSocket(ssl.SSLSocket):
    """Waits for nobody longer than `NEXT_BYTE_SECONDS`. The kernel's own limit does not do: OpenSSL asks it again."""

    def settimeout(self, value: float | None) -> None:
        super().settimeout(NEXT_BYTE_SECONDS if value is None else value)

    def setblocking(self, flag: bool) -> None:
        self.settimeout(None if flag else 0.0)


def tls_context(_config: object, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Called by gunicorn for the context of its TLS connections."""
    context = default()
    context.sslsocket_class = TlsSocket
    return context


def _is_news(record: logging.LogRecord) -> bool:
    """Whether gunicorn tells of more than a caller who was too slow: anybody can be, as often as they like."""
    return not (record.exc_info and isinstance(record.exc_info[1], (BlockingIOError, TimeoutError)))


class Worker(ThreadWorker):  # type: ignore[misc]
    """A worker whose own errors have the one shape, and whose threads wait for nobody long.

    A caller who asks again at once is answered by the same thread: to hand the connection to the main thread and back
    costs more than to look whether it is readable. After an error the connection closes.
    """

    def init_process(self) -> None:
        """Called by gunicorn in each web process."""
        logging.getLogger("gunicorn.error").addFilter(_is_news)
        super().init_process()

    def handle(self, conn: Any) -> Any:
        """Called by gunicorn in a thread, for a connection that may have a request."""
        if not conn.initialized and not conn.data_ready and not conn.wait_for_data(FIRST_BYTE_SECONDS):
            return _DEFER
        # By the kernel: gunicorn makes the socket a blocking one again before it reads.
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", NEXT_BYTE_SECONDS, 0))
        while (kept := super().handle(conn)) is True and self.alive and self._asks_again(conn):
            pass
        if not kept:
            take_leave(conn.sock)
        return kept

    def _asks_again(self, conn: Any) -> bool:
        if conn.parser.unreader.buf.getvalue():
            return False  # gunicorn itself goes on with what it has read already
        if self.cfg.is_ssl or self.tpool._work_queue.qsize():
            return False  # others wait for a thread
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(LINGER_SECONDS * 1000))

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Called at SIGTERM: it stops when all is answered, or its grace is over."""
        departure.at = time.monotonic() + self.cfg.graceful_timeout - DEPART_SECONDS
        super().handle_exit(sig, frame)

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


def take_leave(connection: socket.socket) -> None:
    """Let the caller hear the end of the answer, before the connection closes; in the thread that has answered.

    gunicorn does the same for each in its one main thread, where a caller who stays would hold all others up.
    """
    deadline = time.monotonic() + LEAVE_SECONDS
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(LEAVE_SECONDS)
        while time.monotonic() < deadline and connection.recv(_PIECE):
            pass
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)  # so that gunicorn finds its end at once


class Log(Logger):  # type: ignore[misc]
    """gunicorn's log as lines of JSON among the others; a request's without its query, which may hold arguments."""

    def setup(self, cfg: Any) -> None:
        """Called by gunicorn, before it starts and when it loads its settings anew."""
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
            log.propagate = True

    def access(self, resp: Any, req: Any, environ: Mapping[str, Any], request_time: timedelta) -> None:
        """Called by gunicorn for each answer."""
        if self.cfg.accesslog is None:
            return
        headers = {name.lower(): value for name, value in resp.headers}
        about = {
            "method": req.method,
            "path": req.path,
            "status": int(str(resp.status).split(None, 1)[0]),
            "bytes": getattr(resp, "sent", None),
            "ms": round(request_time.total_seconds() * 1000, 3),
            "client": environ.get("REMOTE_ADDR"),
            "execution_id": headers.get("execution-id"),
            "trace_id": traces.trace_id(traces.parse(environ.get("HTTP_TRACEPARENT"))),
        }
        self.access_log.info("answered", extra={name: said for name, said in about.items() if said is not None})


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
