"""What the way out is built upon: the host's own way to the internet, its resolvers, its packet filter, our rights."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path

from faaspot_runner.sandbox import container
from faaspot_runner.sandbox import firewall as firewalls
from faaspot_runner.sandbox.firewall import Firewall
from faaspot_runner.sandbox.netns import SYSCTL
from faaspot_runner.sandbox.rtnetlink import mtu

POOLS = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")))
HOSTS = 4096
"""Addresses of one spot: the lower half for its links, the upper for sandboxes."""
NET_ADMIN, SYS_ADMIN = 12, 21
RESOLV_CONFS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


class EgressUnavailable(Exception):
    """`network: internet` cannot be offered safely here; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uplink:
    """`link`: the link of the default route. `taken`: networks that have a route."""

    firewall: Firewall
    link: str
    mtu: int
    resolvers: tuple[IPv4Address, ...]
    taken: tuple[IPv4Network, ...]

    def free_network(self, name: str) -> IPv4Network:
        """A private network that meets no route and no resolver of the host; another for every spot.

        Raises EgressUnavailable.
        """
        candidates = [network for pool in POOLS for network in pool.subnets(new_prefix=33 - HOSTS.bit_length())]
        # Begun at a place of the spot's own: two that start at the same time do not see each other's routes yet.
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:2], "big") % len(candidates)
        for network in candidates[start:] + candidates[:start]:
            if not any(map(network.overlaps, self.taken)) and not any(each in network for each in self.resolvers):
                return network
        raise EgressUnavailable("every private network has a route on this host: sandboxes have no addresses")


def unavailable() -> str | None:
    """Why `Egress.open` cannot work here, None if it should. Changes nothing; for `fas doctor`."""
    try:
        examine()
    except EgressUnavailable as error:
        return str(error)
    return None


def examine() -> Uplink:
    """Look whether all that is needed is there. Raises EgressUnavailable with the first that is not."""
    if os.geteuid() != 0:
        raise EgressUnavailable(
            "an ordinary user cannot link a sandbox's network to the outside: start the platform as root to offer it"
        )
    for name, bit in (("NET_ADMIN", NET_ADMIN), ("SYS_ADMIN", SYS_ADMIN)):
        if not _capable(bit):
            raise EgressUnavailable(f"the capability {name} is missing: in a container, add --cap-add {name}")
    firewall = firewalls.find()
    if firewall is None:
        raise EgressUnavailable(
            "neither iptables nor nft was found on PATH: install one (Debian, Ubuntu: apt-get install iptables)"
        )
    routes = list(_routes())
    links = [link for network, link in routes if network.prefixlen == 0]
    if not links:
        raise EgressUnavailable("this host has no IPv4 default route: it has no way to the internet itself")
    if os.statvfs(SYSCTL).f_flag & os.ST_RDONLY:
        raise EgressUnavailable(f"/proc/sys/net is read-only: start the container with {container.SYSTEM_PATHS}")
    return Uplink(
        firewall=firewall,
        link=links[0],
        mtu=mtu(links[0]),
        resolvers=_resolvers(),
        taken=tuple(network for network, _ in routes if network.prefixlen),
    )


def _capable(bit: int) -> bool:
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> bit & 1)
    return False


def _routes() -> Iterator[tuple[IPv4Network, str]]:
    """(network, link) of the main table, the route with the lowest metric first."""
    rows = [line.split() for line in Path("/proc/thread-self/net/route").read_text().splitlines()[1:]]
    for row in sorted(rows, key=lambda row: int(row[6])):
        address, mask = (int(row[column], 16).to_bytes(4, "little") for column in (1, 7))
        yield IPv4Network((address, str(IPv4Address(mask)))), row[0]


def _resolvers() -> tuple[IPv4Address, ...]:
    """The host's name servers that a sandbox can be let to. Raises EgressUnavailable if there are none."""
    for path in RESOLV_CONFS:
        found = [server for server in _nameservers(path) if not server.is_loopback and not server.is_unspecified]
        if found:
            return tuple(dict.fromkeys(found))[:3]
    raise EgressUnavailable(
        f"{RESOLV_CONFS[0]} names no IPv4 name server beside the host's own loopback, which a sandbox cannot reach: "
        "add a line `nameserver ADDRESS` with one that it may ask"
    )


def _nameservers(path: Path) -> Iterator[IPv4Address]:
    for line in path.read_text().splitlines() if path.exists() else ():
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1:
            with contextlib.suppress(ValueError):
                address = ip_address(words[1].partition("%")[0])
                if isinstance(address, IPv4Address):
                    yield address
