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
    lease = egress.lease(rules)                # the same, but for what these list it is closed: `gate`
    ... the launcher: setns(lease.fd, CLONE_NEWNET) BEFORE it makes the user namespace, writes lease.resolv_conf ...
    lease.release()                            # when the sandbox is dead
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network

from faaspot_runner.contract.addresses import INNER_V4
from faaspot_runner.contract.egress import EgressRule
from faaspot_runner.sandbox.firewall import LINK_PREFIX, FirewallError, Rules
from faaspot_runner.sandbox.gate import RESOLV_CONF, Gate
from faaspot_runner.sandbox.netns import SYSCTL, enter_namespace, new_namespace, without_ipv6
from faaspot_runner.sandbox.rtnetlink import Netlink
from faaspot_runner.sandbox.uplink import HOSTS, EgressUnavailable, Uplink, examine, unavailable

__all__ = ["Egress", "EgressUnavailable", "NetworkLease", "unavailable"]

log = logging.getLogger(__name__)

SANDBOX_TABLE = 100
HOST_LOCK_SECONDS = 30.0
RUNNING_SECONDS = 3.0


class NetworkLease:
    """A network namespace of one sandbox: lo up, one address, default route, no IPv6 but ::1.

    `fd`: the namespace, close-on-exec. It belongs to the initial user namespace: join it before making a new one.
    `resolv_conf`: text for the sandbox's /etc/resolv.conf.
    """

    def __init__(self, fd: int, address: str, resolv_conf: str, give_back: Callable[[str], None]) -> None:
        self.fd = fd
        self.address = address
        self.resolv_conf = resolv_conf
        self.gate: Gate | None = None
        self._give_back = give_back
        self._lock = threading.Lock()

    def release(self) -> None:
        """Give it back, also when processes are left in it: they lose their link. Harmless when repeated.

        Does not wait: the kernel takes some 20 ms to take a link away.
        """
        with self._lock:
            fd, self.fd = self.fd, -1
        if fd >= 0:
            if self.gate is not None:
                self.gate.close()
            os.close(fd)
            self._give_back(self.address)


class Egress:
    """The way out of one spot. Its threads may share it."""

    def __init__(self, name: str, uplink: Uplink, denied: tuple[IPv4Network, ...], spare: int) -> None:
        self._uplink, self._denied, self._spare = uplink, denied, spare
        self._link = LINK_PREFIX + hashlib.sha256(name.encode()).hexdigest()[:8]
        self._net = uplink.free_network(name)
        self._sandboxes = list(self._net.subnets(1))[1]
        self._lock = threading.Lock()
        self._free = deque(self._net[offset] for offset in range(HOSTS // 2, HOSTS - 1))
        self._links: dict[str, str] = {}
        self._spares: deque[NetworkLease] = deque()
        self._numbers = itertools.count(1)
        self._closed = False
        self.unlisted: str | None = None
        """Why this spot cannot hold a sandbox to an allow-list, None if it can."""
        self._behind = ThreadPoolExecutor(max_workers=1, thread_name_prefix="egress")
        self._host = Netlink()
        self._router_fd, self._router = -1, self._host

    @classmethod
    def open(cls, name: str, *, deny: tuple[str, ...] = (), spare: int = 2) -> Egress:
        """Set the way up. `name`: as for cgroups, the spot's alone on this machine; `deny`: further networks (CIDR).

        `spare`: leases made ahead. Sweeps first what a dead spot of the same name left. Raises EgressUnavailable.
        """
        egress = cls(name, examine(), INNER_V4 + tuple(map(IPv4Network, deny)), spare)
        try:
            with _host_lock():
                egress._sweep()
                egress._connect()
                egress._forward()
        except (OSError, FirewallError) as error:
            egress.close()
            raise EgressUnavailable(f"the way out could not be set up: {error}") from error
        egress._try_gate()
        egress._behind.submit(egress._refill)
        return egress

    def lease(self, rules: Sequence[EgressRule] | None = None) -> NetworkLease:
        """A namespace for one sandbox, closed but for what `rules` list if they are given. Raises OSError."""
        try:
            lease = self._spares.popleft()
        except IndexError:
            lease = self._new_lease()
        self._later(self._refill)
        return lease if rules is None else self._gated(lease, rules)

    def lease_in(self, namespace: int, rules: Sequence[EgressRule] | None = None) -> NetworkLease:
        """The same for a network namespace that is there already and has no link yet, a container's. Raises OSError."""
        lease = self._new_lease(namespace)
        return lease if rules is None else self._gated(lease, rules)

    def _gated(self, lease: NetworkLease, rules: Sequence[EgressRule]) -> NetworkLease:
        """The lease, closed but for what `rules` list. Raises OSError, and has released it then."""
        try:
            lease.gate = Gate.open(lease.fd, rules, denied=self._denied, firewall=self._uplink.firewall)
        except FirewallError as error:
            lease.release()
            raise OSError(errno.EIO, f"the allow-list could not be put in place: {error}") from error
        except BaseException:
            lease.release()
            raise
        lease.resolv_conf = RESOLV_CONF
        return lease

    def _try_gate(self) -> None:
        """See once whether an allow-list can be put in place here."""
        fd, inside = new_namespace(router=False)
        try:
            inside.set_up("lo")
            Gate.open(fd, (), denied=self._denied, firewall=self._uplink.firewall).close()
        except (OSError, FirewallError) as error:
            self.unlisted = f"a packet filter inside a sandbox's network is not possible here: {error}"
        finally:
            inside.close()
            os.close(fd)

    def close(self) -> None:
        """Take all of it away again: links of sandboxes that still run, too. Harmless when repeated."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._behind.shutdown(cancel_futures=True)
        for lease in self._spares:
            lease.release()
        try:
            with _host_lock():
                self._sweep()
                self._stop_forwarding()
        except (OSError, FirewallError) as error:
            log.warning("rules of the link %s may be left in the host's packet filter: %s", self._link, error)
        if self._router_fd >= 0:
            os.close(self._router_fd)
            self._router.close()
        self._host.close()

    def _later(self, work: Callable[[], None]) -> None:
        """Have it done behind the scenes, if there is a behind still."""
        with self._lock:
            if not self._closed:
                self._behind.submit(work)

    # ------------------------------------------------------------ sandboxes

    def _refill(self) -> None:
        while len(self._spares) < self._spare and not self._closed:
            try:
                self._spares.append(self._new_lease())
            except OSError as error:
                log.warning("no network for a sandbox could be made ahead: %s", error)
                return

    def _new_lease(self, namespace: int | None = None) -> NetworkLease:
        with self._lock:
            if not self._free:
                raise OSError(errno.EADDRNOTAVAIL, "every network address of this spot is in use")
            address, link = self._free.popleft(), f"v{next(self._numbers)}"
            self._links[str(address)] = link
        try:
            fd, inside = new_namespace(router=False) if namespace is None else enter_namespace(namespace)
            self._connect_sandbox(address, link, fd, inside)
        except OSError:
            self._take_away(str(address))
            raise
        return NetworkLease(fd, str(address), self._resolv_conf(), self._take_back)

    def _connect_sandbox(self, address: IPv4Address, link: str, fd: int, inside: Netlink) -> None:
        """Both are closed if it fails, `inside` always."""
        try:
            self._router.add_veth(link, "eth0", fd, self._uplink.mtu)
            self._router.set_up(link)
            self._router.add_route(IPv4Network(address), index=self._router.index(link))
            inside.set_up("lo")
            eth0 = inside.index("eth0")
            inside.add_address(eth0, address, 32)
            inside.set_up("eth0")
            near = self._router.index(link)
            self._router.add_neighbour(address, index=near, hardware=inside.hardware("eth0"))
            inside.add_neighbour(self._net[1], index=eth0, hardware=self._router.hardware(link))
            inside.add_route(IPv4Network(self._net[1]), index=eth0)
            inside.add_route(IPv4Network("0.0.0.0/0"), index=eth0, via=self._net[1])
            # A link that does not run yet loses packets, and the first connection waits a second for its next try.
            self._router.wait_running(link, RUNNING_SECONDS)
            inside.wait_running("eth0", RUNNING_SECONDS)
        except OSError:
            os.close(fd)
            raise
        finally:
            inside.close()

    def _take_back(self, address: str) -> None:
        self._later(lambda: self._take_away(address))

    def _take_away(self, address: str) -> None:
        """Delete the link, and let others have the address. It may be gone with its namespace's last process."""
        with self._lock:
            link = self._links.pop(address)
        with contextlib.suppress(OSError):
            self._router.delete_link(link)
        with self._lock:
            self._free.append(IPv4Address(address))

    def _resolv_conf(self) -> str:
        lines = [f"nameserver {resolver}\n" for resolver in self._uplink.resolvers]
        return "".join([*lines, "options timeout:2 attempts:2\n"])

    # ------------------------------------------------------------ router

    def _connect(self) -> None:
        """The router and its link to the host."""
        self._router_fd, self._router = new_namespace(router=True)
        near, far, gateway = self._net[2], self._net[3], self._net[1]
        self._host.add_veth(self._link, "up", self._router_fd, self._uplink.mtu)
        without_ipv6(self._link)
        index = self._host.index(self._link)
        self._host.add_address(index, near, 31)
        self._host.set_up(self._link)
        self._host.add_route(self._sandboxes, index=index, via=far)
        self._router.set_up("lo")
        self._router.add_address(1, gateway, 32)
        up = self._router.index("up")
        self._router.add_address(up, far, 31)
        self._router.set_up("up")
        self._route_sandboxes(up, near)
        self._host.wait_running(self._link, RUNNING_SECONDS)
        self._router.wait_running("up", RUNNING_SECONDS)

    def _route_sandboxes(self, up: int, near: IPv4Address) -> None:
        """Packets from sandboxes go up or nowhere: their table knows no other sandbox. Answers use the main table."""
        table = SANDBOX_TABLE
        self._router.route_sources(self._sandboxes, table=table, priority=100)
        self._router.add_route(IPv4Network("0.0.0.0/0"), index=up, via=near, table=table)
        let = {IPv4Network(resolver) for resolver in self._uplink.resolvers}
        for network in let:
            self._router.add_route(network, index=up, via=near, table=table)
        for network in set(self._denied) - let:
            self._router.prohibit(network, table=table)

    # ------------------------------------------------------------ host

    def _forward(self) -> None:
        rules = Rules(link=self._link, sandboxes=self._sandboxes, resolvers=self._uplink.resolvers, denied=self._denied)
        self._uplink.firewall.install(rules)
        uplink, firewall = self._uplink.link, self._uplink.firewall
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
        guarded = self._uplink.firewall.guarded()
        if guarded is None or any(name.startswith(LINK_PREFIX) for _, name in socket.if_nameindex()):
            return
        self._forwarding(guarded, on=False)
        self._uplink.firewall.unguard()

    def _forwarding(self, link: str, *, on: bool) -> None:
        with contextlib.suppress(FileNotFoundError):  # a link that is gone forwards nothing
            (SYSCTL / "conf" / link / "forwarding").write_text("1" if on else "0")

    def _sweep(self) -> None:
        self._uplink.firewall.remove(self._link)
        with contextlib.suppress(OSError):  # it is rarely there: the router's death took it
            self._host.delete_link(self._link)


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
