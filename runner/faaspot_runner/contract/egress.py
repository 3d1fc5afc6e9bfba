"""The allow-list of a deployment with `network: internet`: where its runs may connect to.

One item is ``HOST:PORT`` or ``HOST:FIRST-LAST``; HOST is a full host name, an IPv4 address or network
(``203.0.113.0/24``), or an IPv6 one in brackets. A name means itself alone, not what is below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

ANYWHERE = "*"
"""The only item of a list that lifts the one before: everything public may be reached again."""
MOST = 50
"""Items of one list."""

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_MAPPED = IPv6Network("::ffff:0:0/96")


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRule:
    """One item: a name (lower case, no final dot) or a network, and the ports from `first` to `last` of TCP and UDP."""

    name: str | None = None
    network: IPv4Network | IPv6Network | None = None
    first: int
    last: int


def egress_rule(text: str) -> EgressRule:
    """The rule that an item says. Raises ValueError that says what is wrong."""
    host, colon, ports = text.rpartition(":")
    if not colon or not host:
        raise ValueError("must be HOST:PORT, for example api.example.com:443")
    first, last = _ports(ports)
    if host.startswith("[") and host.endswith("]"):
        return EgressRule(network=_network(host[1:-1], 6), first=first, last=last)
    if ":" in host:
        raise ValueError("an IPv6 address is written in brackets: [2001:db8::1]:443")
    if re.fullmatch(r"[0-9./]+", host, re.ASCII):
        return EgressRule(network=_network(host, 4), first=first, last=last)
    return EgressRule(name=_name(host), first=first, last=last)


def egress_rules(listed: Iterable[str] | None) -> tuple[EgressRule, ...] | None:
    """The rules of a whole list; None, as it is, lets everything public pass. Raises as `egress_rule`."""
    return None if listed is None else tuple(map(egress_rule, listed))


def _ports(text: str) -> tuple[int, int]:
    found = _PORTS.fullmatch(text)
    if found is None:
        raise ValueError("must end in a port or a range of ports, for example :443 or :8000-8080")
    first, last = int(found[1]), int(found[2] or found[1])
    if not 1 <= first <= last <= 65535:
        raise ValueError("its ports must be from 1 to 65535, the smaller first")
    return first, last


def _network(text: str, version: int) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(f"holds no IPv{version} address or network: {error}") from None
    if network.version != version or "%" in text:
        raise ValueError(f"holds no IPv{version} address or network; only IPv6 stands in brackets, without a scope")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        raise ValueError("is IPv4 in the dress of IPv6: write the IPv4 address or network itself")
    return network


def _name(host: str) -> str:
    if "*" in host:
        raise ValueError(
            "names one host; * for all below a name is not there, because their names could carry data out"
        )
    name = host.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("holds no host name (letters, digits, '-' and '.'; write others in their xn-- form)")
    if len(labels) < 2:
        raise ValueError("needs a full host name, with a dot in it")
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
        raise ValueError("holds no host name: its last part is a number")
    return name
