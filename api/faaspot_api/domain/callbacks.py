"""Callbacks: the address to tell of a run's end, how what is told is signed, and when it is told again. Pure.

The form is that of Standard Webhooks (standardwebhooks.com), whose libraries check it: the headers ``webhook-id``,
``webhook-timestamp`` and ``webhook-signature``, a secret that begins with ``whsec_``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

from faaspot_runner.contract.addresses import is_public

MAX_URL = 2000
MAX_HOST, MAX_LABEL = 253, 63
TRIES = 8
"""How often it is told at most, the first time included: over some three hours."""
FIRST_PAUSE, GROWTH = 2.0, 4.0
SECRET_PREFIX = "whsec_"  # noqa: S105 (no secret, the mark of one)

Networks = Iterable[IPv4Network | IPv6Network]


def problem(url: str, allowed: Networks) -> str | None:
    """Why nobody can be told at this address, None if it can be tried. Names are looked up only when it is."""
    if not 0 < len(url) <= MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        return f"must be an http or https URL of at most {MAX_URL} printable ASCII characters"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "must be an http or https URL with a host"
    if "@" in parts.netloc or parts.fragment:
        return "must have neither a user nor a fragment"
    if port is not None and not (port in (80, 443) or 1024 <= port <= 65_535):
        return "must be at port 80, 443, or 1024 and above"
    literal = _literal(parts.hostname)
    if literal is None and not _is_name(parts.hostname):
        return "must have a host whose name can be looked up"
    if literal is not None and not may_reach(literal, allowed):
        return "must be a public address, not an internal one"
    return None


def place(url: str) -> tuple[SplitResult, str, int]:
    """The parts, host and port of an address without a `problem`."""
    parts = urlsplit(url)
    return parts, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def origin(url: str) -> str:
    """The part of an address that a log may show: paths hold secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def may_reach(address: IPv4Address | IPv6Address, allowed: Networks) -> bool:
    """Whether a callback may go to this address: a public one, or one that the operator has allowed."""
    return is_public(address) or any(address in network for network in allowed)


def secret(master: bytes, owner: str) -> str:
    """What the receivers of this token's callbacks check signatures with."""
    derived = hmac.digest(master, b"callbacks\0" + owner.encode(), hashlib.sha256)
    return SECRET_PREFIX + base64.b64encode(derived).decode()


def signature(secret: str, identifier: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``. `timestamp`: epoch seconds."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = hmac.digest(key, f"{identifier}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(signed).decode()


def pause(tries: int) -> float | None:
    """Seconds until it is told again after so many failed tries, None if it is given up."""
    return FIRST_PAUSE * GROWTH ** (tries - 1) if tries < TRIES else None


def _is_name(host: str) -> bool:
    """Whether it can stand in the DNS. What cannot makes a lookup raise, rather than find nothing."""
    return len(host) <= MAX_HOST and all(0 < len(label) <= MAX_LABEL for label in host.removesuffix(".").split("."))


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
