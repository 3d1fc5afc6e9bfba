"""`network: internet` for sandboxes of a root spot: out to public addresses, to nothing else.

::

    host ──faasXXXXXXXX──up── router ──v5──eth0── sandbox
         packet filter         routes              one address, no IPv6
         and NAT               by source

The **router** is a network namespace without a name in the middle. It holds what would otherwise fill the host: the
links of all sandboxes, their routes, the rule that none of them reaches another. Only descriptors of the spot keep it
alive: when the spot is killed, the kernel takes it away with every link, the host's end among them. On the host remain
a few rules that name a link which is no more; the next start of the spot takes them out.

What is refused is refused twice: by the router's routes (at once, without a tool) and by the host's packet filter.

The host must forward packets. Where it does not (`forwarding` of the link with the default route is 0) it is switched
on for that one link, behind a guard in the packet filter that drops all forwarding but ours, so that the host becomes a
router for nobody else; the last spot to close switches it off again. `net.ipv4.ip_forward` is never touched.

::

    egress = Egress.open("NAME")               # or EgressUnavailable, whose text goes into SpotInfo.problems
    lease = egress.lease()
    ... the launcher: setns(lease.fd, CLONE_NEWNET) BEFORE it makes the user namespace, writes lease.resolv_conf ...
    lease.release()                            # when the sandbox is dead
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import logging
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path
from typing import TypeVar

from faaspot_runner.agent.syscalls import CLONE_NEWNET, setns, unshare
from faaspot_runner.sandbox import firewall as firewalls
from faaspot_runner.sandbox.firewall import LINK_PREFIX, Firewall, FirewallError, Rules
from faaspot_runner.sandbox.rtnetlink import Netlink

T = TypeVar("T")
log = logging.getLogger(__name__)

DENIED = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
            "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
            "168.63.129.16/32",  # a public address that is Azure's metadata service
        ),
    )
)  # fmt: skip
"""What no sandbox reaches: private, link-local (metadata), shared, loopback, test, multicast and reserved networks."""
POOLS = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")))
HOSTS = 4096
"""Addresses of one spot: the lower half for its links, the upper for sandboxes."""
SANDBOX_TABLE = 100
NET_ADMIN, SYS_ADMIN = 12, 21
SIOCGIFMTU = 0x8921
HOST_LOCK_SECONDS = 30.0
RESOLV_CONFS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
SYSCTL = Path("/proc/sys/net/ipv4")
SYSCTL6 = Path("/proc/sys/net/ipv6/conf")


class EgressUnavailable(Exception):
    """`network: internet` cannot be offered safely here; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the way out is built upon. `uplink`: the link of the default route. `taken`: networks with a route."""

    firewall: Firewall
    uplink: str
    mtu: int
    resolvers: tuple[IPv4Address, ...]
    taken: tuple[IPv4Network, ...]


class NetworkLease:
    """A network namespace of one sandbox: lo up, one address, default route, no IPv6.

    `fd`: the namespace, close-on-exec. It belongs to the initial user namespace: join it before making a new one.
    `resolv_conf`: text for the sandbox's /etc/resolv.conf.
    """

    def __init__(self, fd: int, address: str, resolv_conf: str, give_back: Callable[[NetworkLease], None]) -> None:
        self.fd = fd
        self.address = address
        self.resolv_conf = resolv_conf
        self._give_back = give_back
        self._lock = threading.Lock()

    def release(self) -> None:
        """Take the link away, at once for processes still in the namespace too. Harmless when repeated."""
        with self._lock:
            fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
            self._give_back(self)


class Egress:
    """The way out of one spot. Its threads may share it."""

    def __init__(self, name: str, host: Host, denied: tuple[IPv4Network, ...]) -> None:
        self._host, self._denied = host, denied
        self._link = LINK_PREFIX + hashlib.sha256(name.encode()).hexdigest()[:8]
        self._lock = threading.Lock()
        self._net = _free_network(host, name)
        self._free = deque(self._net[offset] for offset in range(HOSTS // 2, HOSTS - 1))
        self._links: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._local = Netlink()
        self._router_fd, self._router = -1, self._local

    @classmethod
    def open(cls, name: str, *, deny: tuple[str, ...] = ()) -> Egress:
        """Set the way up. `name`: as for cgroups, the spot's alone on this machine; `deny`: further networks (CIDR).

        Sweeps first what a dead spot of the same name left. Raises EgressUnavailable.
        """
        egress = cls(name, examine(), DENIED + tuple(map(IPv4Network, deny)))
        try:
            with _host_lock():
                egress._sweep()
                egress._connect()
                egress._forward()
        except (OSError, FirewallError) as error:
            egress.close()
            raise EgressUnavailable(f"the way out could not be set up: {error}") from error
        return egress

    def lease(self) -> NetworkLease:
        """A namespace for one sandbox. Raises OSError."""
        with self._lock:
            if not self._free:
                raise OSError("every network address of this spot is in use")
            address, link = self._free.popleft(), f"v{next(self._numbers)}"
            try:
                fd = self._connect_sandbox(address, link)
            except OSError:
                self._free.append(address)
                raise
            self._links[str(address)] = link
        return NetworkLease(fd, str(address), self._resolv_conf(), self._take_back)

    def close(self) -> None:
        """Take all of it away again: links of sandboxes that still run, too."""
        try:
            with self._lock, _host_lock():
                self._sweep()
                self._stop_forwarding()
        except (OSError, FirewallError) as error:
            log.warning("rules of the link %s may be left in the host's packet filter: %s", self._link, error)
        if self._router_fd >= 0:
            os.close(self._router_fd)
            self._router.close()
            self._router_fd = -1
        self._local.close()

    # ------------------------------------------------------------ router

    def _connect(self) -> None:
        """The router and its link to the host."""
        self._router_fd, self._router = _new_namespace(router=True)
        near, far, gateway = self._net[2], self._net[3], self._net[1]
        self._local.add_veth(self._link, "up", self._router_fd, self._host.mtu)
        _without_ipv6(self._link)
        index = socket.if_nametoindex(self._link)
        self._local.add_address(index, near, 31)
        self._local.set_up(self._link)
        self._local.add_route(self._sandboxes, index=index, via=far)
        self._router.set_up("lo")
        self._router.add_address(1, gateway, 32)
        up = self._index("up")
        self._router.add_address(up, far, 31)
        self._router.set_up("up")
        self._route_sandboxes(up, near)

    def _route_sandboxes(self, up: int, near: IPv4Address) -> None:
        """Packets from sandboxes go up or nowhere: their table knows no other sandbox. Answers use the main table."""
        table = SANDBOX_TABLE
        self._router.route_sources(self._sandboxes, table=table, priority=100)
        self._router.add_route(IPv4Network("0.0.0.0/0"), index=up, via=near, table=table)
        let = {IPv4Network(resolver) for resolver in self._host.resolvers}
        for network in let:
            self._router.add_route(network, index=up, via=near, table=table)
        for network in set(self._denied) - let:
            self._router.prohibit(network, table=table)

    def _connect_sandbox(self, address: IPv4Address, link: str) -> int:
        fd, inside = _new_namespace(router=False)
        try:
            self._router.add_veth(link, "eth0", fd, self._host.mtu)
            self._router.set_up(link)
            self._router.add_route(IPv4Network(address), index=self._index(link))
            inside.set_up("lo")
            eth0 = _in_namespace(fd, lambda: socket.if_nametoindex("eth0"))
            inside.add_address(eth0, address, 32)
            inside.set_up("eth0")
            inside.add_route(IPv4Network(self._net[1]), index=eth0)
            inside.add_route(IPv4Network("0.0.0.0/0"), index=eth0, via=self._net[1])
        except OSError:
            os.close(fd)
            raise
        finally:
            inside.close()
        return fd

    def _index(self, link: str) -> int:
        return _in_namespace(self._router_fd, lambda: socket.if_nametoindex(link))

    def _take_back(self, lease: NetworkLease) -> None:
        with self._lock:
            link = self._links.pop(lease.address)
            self._free.append(IPv4Address(lease.address))
            if self._router_fd >= 0:
                with contextlib.suppress(OSError):  # its last process is gone, and the namespace with it
                    self._router.delete_link(link)

    @property
    def _sandboxes(self) -> IPv4Network:
        return list(self._net.subnets(1))[1]

    def _resolv_conf(self) -> str:
        lines = [f"nameserver {resolver}\n" for resolver in self._host.resolvers]
        return "".join([*lines, "options timeout:2 attempts:2\n"])

    # ------------------------------------------------------------ host

    def _forward(self) -> None:
        rules = Rules(link=self._link, sandboxes=self._sandboxes, resolvers=self._host.resolvers, denied=self._denied)
        self._host.firewall.install(rules)
        uplink, firewall = self._host.uplink, self._host.firewall
        guarded = firewall.guarded()
        if guarded is not None and guarded != uplink:
            self._forwarding(guarded, on=False)
            firewall.unguard()
        if not _forwards(uplink):
            firewall.guard(uplink)
            self._forwarding(uplink, on=True)
        self._forwarding(self._link, on=True)

    def _stop_forwarding(self) -> None:
        """What `_forward` switched on, unless another spot needs it still."""
        guarded = self._host.firewall.guarded()
        if guarded is None or any(name.startswith(LINK_PREFIX) for _, name in socket.if_nameindex()):
            return
        self._forwarding(guarded, on=False)
        self._host.firewall.unguard()

    def _forwarding(self, link: str, *, on: bool) -> None:
        with contextlib.suppress(FileNotFoundError):  # a link that is gone forwards nothing
            (SYSCTL / "conf" / link / "forwarding").write_text("1" if on else "0")

    def _sweep(self) -> None:
        self._host.firewall.remove(self._link)
        with contextlib.suppress(OSError):  # it is rarely there: the router's death took it
            self._local.delete_link(self._link)


def unavailable() -> str | None:
    """Why `Egress.open` cannot work here, None if it should. Changes nothing; for `fas doctor`."""
    try:
        examine()
    except EgressUnavailable as error:
        return str(error)
    return None


def examine() -> Host:
    """Look whether all that is needed is there. Raises EgressUnavailable with the first that is not."""
    if os.geteuid() != 0:
        raise EgressUnavailable(
            "an ordinary user cannot link a sandbox's network to the outside: start the platform as root to offer it"
        )
    lacking = [name for name, bit in (("NET_ADMIN", NET_ADMIN), ("SYS_ADMIN", SYS_ADMIN)) if not _capable(bit)]
    if lacking:
        raise EgressUnavailable(f"the capability {lacking[0]} is missing: in a container, add --cap-add {lacking[0]}")
    firewall = firewalls.find()
    if firewall is None:
        raise EgressUnavailable(
            "neither iptables nor nft was found on PATH: install one (Debian, Ubuntu: apt-get install iptables)"
        )
    routes = list(_routes())
    uplinks = [link for network, link, _ in routes if network.prefixlen == 0]
    if not uplinks:
        raise EgressUnavailable("this host has no IPv4 default route: it has no way to the internet itself")
    if not os.access(SYSCTL / "conf" / uplinks[0] / "forwarding", os.W_OK) or _read_only(SYSCTL):
        raise EgressUnavailable("/proc/sys/net is read-only here: in a container, make it writable (--privileged)")
    return Host(
        firewall=firewall,
        uplink=uplinks[0],
        mtu=min(mtu for network, _, mtu in routes if network.prefixlen == 0),
        resolvers=_resolvers(),
        taken=tuple(network for network, _, _ in routes if network.prefixlen),
    )


def _capable(bit: int) -> bool:
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> bit & 1)
    return False


def _read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _routes() -> Iterator[tuple[IPv4Network, str, int]]:
    """(network, link, MTU of the link) of the main table, the route with the lowest metric first."""
    rows = [line.split() for line in Path("/proc/thread-self/net/route").read_text().splitlines()[1:]]
    for row in sorted(rows, key=lambda row: int(row[6])):
        address, mask = (int(row[column], 16).to_bytes(4, "little") for column in (1, 7))
        yield IPv4Network((address, str(IPv4Address(mask)))), row[0], _mtu(row[0])


def _mtu(link: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        answer = fcntl.ioctl(asker.fileno(), SIOCGIFMTU, struct.pack("16sI12x", link.encode(), 0))
    return int(struct.unpack("16sI12x", answer)[1])


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


def _free_network(host: Host, name: str) -> IPv4Network:
    """A private network that meets no route and no resolver of the host; another for every spot."""
    candidates = [network for pool in POOLS for network in pool.subnets(new_prefix=32 - HOSTS.bit_length() + 1)]
    # Begun at a place of the spot's own: two that start at the same time do not see each other's routes yet.
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:2], "big") % len(candidates)
    for network in candidates[start:] + candidates[:start]:
        if not any(network.overlaps(taken) for taken in host.taken) and not any(
            resolver in network for resolver in host.resolvers
        ):
            return network
    raise EgressUnavailable("every private network has a route on this host: sandboxes have no addresses")


@contextlib.contextmanager
def _host_lock() -> Iterator[None]:
    """One spot at a time changes the host's side. A name in the network namespace: it ends with its holder."""
    deadline = time.monotonic() + HOST_LOCK_SECONDS
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        while True:
            try:
                lock.bind("\0faaspot-egress")
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        yield


def _forwards(link: str) -> bool:
    return (SYSCTL / "conf" / link / "forwarding").read_text().strip() == "1"


def _without_ipv6(link: str) -> None:
    path = SYSCTL6 / link / "disable_ipv6"
    if path.exists():  # a kernel without IPv6 has none to switch off
        path.write_text("1")


def _new_namespace(*, router: bool) -> tuple[int, Netlink]:
    """A network namespace without IPv6, and a connection to its routing side."""

    def make() -> tuple[int, Netlink]:
        unshare(CLONE_NEWNET)
        _without_ipv6("default")  # every link that comes; a sandbox keeps ::1
        if router:
            (SYSCTL / "ip_forward").write_text("1")
            for link in ("all", "default"):
                (SYSCTL / "conf" / link / "rp_filter").write_text("1")  # nobody sends under another's address
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC), Netlink()

    return _in_thread(make)


def _in_namespace(fd: int, work: Callable[[], T]) -> T:
    """Do it in that network namespace."""

    def enter() -> T:
        setns(fd, CLONE_NEWNET)
        return work()

    return _in_thread(enter)


def _in_thread(work: Callable[[], T]) -> T:
    """Do it in a thread of its own: a network namespace is a thread's, and this one's must stay as it is."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(work).result()
