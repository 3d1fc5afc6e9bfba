"""Addresses of a Redis whose place Sentinels know: ``redis+sentinel://[USER:PASSWORD@]HOST[:PORT],.../SERVICE[/DB]``.

With ``rediss+sentinel`` both the Sentinels and the servers are asked over TLS. The options after ``?`` are those of a
``rediss://`` address (``ssl_ca_certs``). The Sentinels' own password is no part of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
"""Of an address, and of the address that says the same of one server."""
PORT = 26379
FORM = "redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/SERVICE[/DATABASE]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinels:
    """Whom to ask, for which service. `server` has the servers' user, password, database and options, and no host."""

    hosts: tuple[tuple[str, int], ...]
    service: str
    server: str

    @property
    def tls(self) -> bool:
        """Whether all of it is over TLS."""
        return self.server.startswith("rediss:")


def sentinels(url: str) -> Sentinels | None:
    """What the address says; None for one of a single server. Raises ValueError that says the form."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        return None
    # Not by urlsplit: from some security releases on it refuses a bracket anywhere but at the beginning of a host.
    where = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, hosts = where.rpartition("@")
    parts = urlsplit(rest.removeprefix(where))
    service, _, database = parts.path.strip("/").partition("/")
    if not hosts or not service or (database and not database.isdecimal()):
        raise ValueError(f"a Redis behind Sentinels is said as {FORM}")
    server = (SCHEMES[scheme], f"{user}{at}sentinels", f"/{database or 0}", parts.query, "")
    return Sentinels(
        hosts=tuple(_host(text) for text in hosts.split(",")),
        service=unquote(service),
        server=urlunsplit(server),
    )


def _host(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if ":" in text.rpartition("]")[2] else (text, "", "")
    if not host or (port and not port.isdecimal()):
        raise ValueError(f"{text!r} is not HOST or HOST:PORT; a Redis behind Sentinels is said as {FORM}")
    return host.strip("[]"), int(port) if port else PORT
