"""One HTTP request to an address that somebody else named: bounded in every way, and never to the platform's inside.

The name is looked up once, each address that it has is checked, and the connection goes to one that was: a name that
turns to another address between check and connection (DNS rebinding) turns for nobody. Redirects are not followed,
proxies of the environment not used, certificates checked.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from faaspot_api.domain import callbacks

Address = IPv4Address | IPv6Address


class RefusedAddressError(OSError):
    """The host has no address that a callback may reach; the text says so without telling what is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Walls:
    """What may be reached. `allowed`: inner networks that are open all the same; `closed`: hosts of the platform."""

    allowed: tuple[IPv4Network | IPv6Network, ...] = ()
    closed: tuple[str, ...] = ()

    def addresses(self, host: str, port: int) -> list[Address]:
        """The addresses of a host that may be reached. Raises RefusedAddressError, OSError where it has none."""
        found = _lookup(host, port)
        closed = {address for name in self.closed for address in _known(name)}
        reachable = [address for address in found if address not in closed and self._open(address)]
        if not reachable:
            raise RefusedAddressError(f"{host} is at an internal address, which callbacks do not reach")
        return reachable

    def _open(self, address: Address) -> bool:
        if any(address in network for network in self.allowed):
            return True
        return callbacks.may_reach(address, ()) and not _is_own(address)


def post(url: str, body: bytes, headers: Mapping[str, str], walls: Walls, seconds: float) -> int:
    """The status of the answer, whose body is not read. Raises OSError (with a text for people) if there is none."""
    parts, host, port = callbacks.place(url)
    end = time.monotonic() + seconds
    connection = http.client.HTTPConnection(host, port)
    connection.sock = _connect(_looked_up(walls, host, port, end), port, end)
    watch = threading.Timer(max(0.0, end - time.monotonic()), _hang_up, [connection])
    watch.daemon = True
    watch.start()
    try:
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection.sock = secure = context.wrap_socket(
                connection.sock, server_hostname=host, do_handshake_on_connect=False
            )
            secure.do_handshake()
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, dict(headers))
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() < end:
            raise OSError(str(error) or type(error).__name__) from error
    finally:
        watch.cancel()
        connection.close()
    if time.monotonic() >= end:  # also where hanging up looked like the end of the answer's head
        raise TimeoutError(f"no answer within {seconds:g} s")
    return status


def _looked_up(walls: Walls, host: str, port: int, end: float) -> list[Address]:
    """The addresses of a host, in time: who asks a slow name server waits for as long as the resolver likes."""
    found: Future[list[Address]] = Future()

    def look() -> None:
        try:
            found.set_result(walls.addresses(host, port))
        except BaseException as error:  # noqa: BLE001 (raised by who waits)
            found.set_exception(error)

    threading.Thread(target=look, name="lookup", daemon=True).start()
    try:
        return found.result(max(0.0, end - time.monotonic()))
    except TimeoutError as error:
        raise TimeoutError(f"{host} was not looked up in time") from error


def _connect(addresses: Sequence[Address], port: int, end: float) -> socket.socket:
    """A connection to the first that answers. Raises OSError."""
    failure: OSError | None = None
    for address in addresses:
        try:
            return socket.create_connection((str(address), port), timeout=max(0.1, end - time.monotonic()))
        except OSError as error:
            failure = error
    raise failure or OSError("no address")


def _hang_up(connection: http.client.HTTPConnection) -> None:
    """Each byte that drips in renews the socket's own timeout; this ends the whole."""
    with contextlib.suppress(OSError):
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)


def _lookup(host: str, port: int) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # Python's own word for a name that cannot stand in the DNS
        raise OSError(f"{host[:80]} is no host name") from error
    return list(dict.fromkeys(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


def _known(host: str) -> list[Address]:
    """The addresses of a host of the platform, none where it cannot be looked up just now."""
    with contextlib.suppress(OSError):
        return _lookup(host, 0)
    return []


def _is_own(address: Address) -> bool:
    """Whether this machine has the address: only those can be bound."""
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    with contextlib.closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True
