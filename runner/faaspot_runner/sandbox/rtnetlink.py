"""Network links, addresses and routes by the kernel's own protocol (rtnetlink): a millisecond where `ip` takes thirty.

A `Netlink` speaks to the network namespace in which it was opened, whichever thread uses it later.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import threading
import time
from ipaddress import IPv4Address, IPv4Network

RTM_NEWLINK, RTM_DELLINK = 16, 17
RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWNEIGH, RTM_NEWRULE = 20, 24, 28, 32
NLMSG_ERROR = 2
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_NET_NS_FD = 1, 3, 4, 18, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80
FRA_SRC, FRA_PRIORITY, FRA_TABLE = 2, 6, 15
FR_ACT_TO_TBL = 1
IFF_UP = 1
RT_TABLE_MAIN = 254
RTPROT_STATIC = 4
SCOPE_UNIVERSE, SCOPE_LINK = 0, 253
UNICAST, PROHIBIT = 1, 8
SIOCGIFFLAGS, SIOCGIFMTU, SIOCGIFINDEX, SIOCGIFHWADDR = 0x8913, 0x8921, 0x8933, 0x8927
IFF_RUNNING = 0x40


class Netlink:
    """A connection to the kernel's routing side; threads may share it. Every method raises OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._sequence = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        self._socket.close()
        self._asker.close()

    def index(self, name: str) -> int:
        """The number of a link."""
        return _about_link(self._asker, SIOCGIFINDEX, name, "i")

    def hardware(self, name: str) -> bytes:
        """The hardware address of a link."""
        answer = fcntl.ioctl(self._asker.fileno(), SIOCGIFHWADDR, struct.pack("16s24x", name.encode()))
        return answer[18:24]

    def wait_running(self, name: str, seconds: float) -> None:
        """Wait until a link that is up carries packets: the kernel lets a moment pass. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not _about_link(self._asker, SIOCGIFFLAGS, name, "H") & IFF_RUNNING:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, f"the link {name} does not come up")
            time.sleep(0.0005)
        # The kernel says so just before it attaches the queue, all under one lock: ask for something behind that lock.
        self.set_up(name)

    def add_veth(self, name: str, peer: str, namespace: int, mtu: int) -> None:
        """A pair of links: `name` here, `peer` in the namespace of that descriptor."""
        far = (
            _link_header()
            + _attribute(IFLA_IFNAME, _text(peer))
            + _attribute(IFLA_MTU, struct.pack("=I", mtu))
            + _attribute(IFLA_NET_NS_FD, struct.pack("=I", namespace))
        )
        info = _attribute(IFLA_INFO_KIND, b"veth") + _attribute(IFLA_INFO_DATA, _attribute(VETH_INFO_PEER, far))
        body = _link_header() + _attribute(IFLA_IFNAME, _text(name)) + _attribute(IFLA_MTU, struct.pack("=I", mtu))
        self._ask(RTM_NEWLINK, body + _attribute(IFLA_LINKINFO, info), NLM_F_CREATE | NLM_F_EXCL)

    def delete_link(self, name: str) -> None:
        """Take a link away, and its peer with it."""
        self._ask(RTM_DELLINK, _link_header() + _attribute(IFLA_IFNAME, _text(name)))

    def set_up(self, name: str) -> None:
        """Let a link carry packets."""
        self._ask(RTM_NEWLINK, _link_header(flags=IFF_UP) + _attribute(IFLA_IFNAME, _text(name)))

    def add_address(self, index: int, address: IPv4Address, prefix: int) -> None:
        """Give an address to a link."""
        body = struct.pack("=BBBBI", socket.AF_INET, prefix, 0, SCOPE_UNIVERSE, index)
        body += _attribute(IFA_LOCAL, address.packed) + _attribute(IFA_ADDRESS, address.packed)
        self._ask(RTM_NEWADDR, body, NLM_F_CREATE | NLM_F_EXCL)

    def add_route(
        self, to: IPv4Network, *, index: int, via: IPv4Address | None = None, table: int = RT_TABLE_MAIN
    ) -> None:
        """Packets to `to` leave by this link, directly or by way of a gateway."""
        scope = SCOPE_LINK if via is None else SCOPE_UNIVERSE
        body = _route_header(to, scope, UNICAST) + _attribute(RTA_DST, to.network_address.packed)
        body += _attribute(RTA_OIF, struct.pack("=I", index)) + _attribute(RTA_TABLE, struct.pack("=I", table))
        if via is not None:
            body += _attribute(RTA_GATEWAY, via.packed)
        self._ask(RTM_NEWROUTE, body, NLM_F_CREATE | NLM_F_EXCL)

    def add_neighbour(self, address: IPv4Address, *, index: int, hardware: bytes) -> None:
        """Say once and for all behind which hardware address an address is: nobody needs to ask for it."""
        body = struct.pack("=BBHiHBB", socket.AF_INET, 0, 0, index, NUD_PERMANENT, 0, 0)
        body += _attribute(NDA_DST, address.packed) + _attribute(NDA_LLADDR, hardware)
        self._ask(RTM_NEWNEIGH, body, NLM_F_CREATE | NLM_F_EXCL)

    def prohibit(self, to: IPv4Network, *, table: int) -> None:
        """Packets to `to` are refused; the sender is told at once."""
        body = _route_header(to, SCOPE_UNIVERSE, PROHIBIT) + _attribute(RTA_DST, to.network_address.packed)
        body += _attribute(RTA_TABLE, struct.pack("=I", table))
        self._ask(RTM_NEWROUTE, body, NLM_F_CREATE | NLM_F_EXCL)

    def route_sources(self, sources: IPv4Network, *, table: int, priority: int) -> None:
        """Packets from these addresses are routed by a table of their own."""
        body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, sources.prefixlen, 0, 0, 0, 0, FR_ACT_TO_TBL, 0)
        body += _attribute(FRA_SRC, sources.network_address.packed)
        body += _attribute(FRA_TABLE, struct.pack("=I", table))
        body += _attribute(FRA_PRIORITY, struct.pack("=I", priority))
        self._ask(RTM_NEWRULE, body, NLM_F_CREATE | NLM_F_EXCL)

    def _ask(self, kind: int, body: bytes, flags: int = 0) -> None:
        with self._lock:
            self._sequence += 1
            header = struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, self._sequence, 0)
            self._socket.send(header + body)
            while True:
                answer = self._socket.recv(65536)
                _, answered, _, sequence, _, code = struct.unpack_from("=IHHIIi", answer)
                if answered == NLMSG_ERROR and sequence == self._sequence:
                    break
        if code:
            raise OSError(-code, os.strerror(-code))


def mtu(name: str) -> int:
    """The largest packet of a link in the thread's own namespace. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        return _about_link(asker, SIOCGIFMTU, name, "i")


def _about_link(asker: socket.socket, question: int, name: str, kind: str) -> int:
    """One number of `struct ifreq`."""
    answer = fcntl.ioctl(asker.fileno(), question, struct.pack("16s24x", name.encode()))
    return int(struct.unpack_from("=" + kind, answer, 16)[0])


def _link_header(flags: int = 0) -> bytes:
    return struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, 0, flags, flags)


def _route_header(to: IPv4Network, scope: int, kind: int) -> bytes:
    return struct.pack("=BBBBBBBBI", socket.AF_INET, to.prefixlen, 0, 0, 0, RTPROT_STATIC, scope, kind, 0)


def _attribute(kind: int, value: bytes) -> bytes:
    """One attribute: length, kind, value, padded to four bytes."""
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def _text(name: str) -> bytes:
    return name.encode() + b"\0"
