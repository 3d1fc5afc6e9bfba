"""The platform's listening socket: bound here once, inherited by each web process, so no connection is lost between."""

from __future__ import annotations

import errno
import socket

from faaspot_api.supervisor.errors import CannotStartError

BACKLOG = 2048


def listen(host: str, port: int, flag: str = "--host") -> socket.socket:
    """A listening TCP socket; port 0 takes a free one. `flag`: what said so. Raises CannotStartError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise CannotStartError(f"{flag} {host}: {error.strerror}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotStartError(_reason(host, port, error)) from None
    return listener


def url(listener: socket.socket, host: str, *, tls: bool) -> str:
    """How a client on this machine reaches it."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host)  # noqa: S104 (read, not bound)
    shown = shown or (f"[{host}]" if ":" in host else host)
    return f"{'https' if tls else 'http'}://{shown}:{listener.getsockname()[1]}"


def _reason(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: choose another --port"
    if error.errno == errno.EACCES:
        return f"port {port} may not be taken by this user: choose a --port above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine: choose another --host"
    return f"cannot listen on {host} port {port}: {error.strerror}"
