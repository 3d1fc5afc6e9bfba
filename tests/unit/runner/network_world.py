"""A small world of our own for the tests of the way out: every packet stays in namespaces that the test makes.

::

    far (the internet)  198.51.100.1 --- 198.51.100.2 wan0  HOST  lan0 10.77.0.1 --- 10.77.0.2 neighbour
    has all the addresses of `FAR`       also 5.5.5.5             (what the egress takes for the host)
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from faaspot_runner.agent.syscalls import CLONE_NEWNET, setns, unshare
from faaspot_runner.sandbox import firewall, uplink
from faaspot_runner.sandbox.netns import in_namespace, new_namespace
from faaspot_runner.sandbox.rtnetlink import Netlink

PORT = 18200
FAR = (
    "9.9.9.9", "8.8.4.4", "169.254.169.254", "168.63.129.16", "100.100.100.200", "10.1.2.3", "172.20.1.1",
    "192.168.55.5", "198.18.0.9", "10.255.255.53",
)  # fmt: skip
RESOLVER = "10.255.255.53"


class World:
    """Makes the namespaces and listens in them."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        here = Netlink()
        here.set_up("lo")
        here.add_address(1, IPv4Address("5.5.5.5"), 32)
        self.far, far = new_namespace(router=True)
        self.neighbour, neighbour = new_namespace(router=False)
        self._join(here, "wan0", self.far, far, "198.51.100.2", "198.51.100.1")
        self._join(here, "lan0", self.neighbour, neighbour, "10.77.0.1", "10.77.0.2")
        here.add_route(ANYWHERE, index=here.index("wan0"), via=IPv4Address("198.51.100.1"))
        link = neighbour.index("link")
        neighbour.add_route(ANYWHERE, index=link, via=IPv4Address("10.77.0.1"))
        for address in FAR:
            far.add_address(1, IPv4Address(address), 32)
        # The far side knows the ways that no honest router would: only the host keeps packets out.
        link = far.index("link")
        for net in ("10.77.0.0/24", *(str(pool) for pool in uplink.POOLS)):
            far.add_route(IPv4Network(net), index=link, via=IPv4Address("198.51.100.2"))
        for connection in (here, far, neighbour):
            connection.close()
        self.server = self.listen(self.far, PORT)
        for place, port in ((self.far, 53), (self.neighbour, PORT)):
            self.listen(place, port)
        self.sockets.append(socket.create_server(("0.0.0.0", PORT)))

    def _join(self, here: Netlink, name: str, fd: int, there: Netlink, near: str, far: str) -> None:
        here.add_veth(name, "link", fd, 1400)
        here.add_address(here.index(name), IPv4Address(near), 24)
        there.set_up("lo")
        there.add_address(there.index("link"), IPv4Address(far), 24)
        there.set_up("link")
        here.set_up(name)
        here.wait_running(name, 5)
        there.wait_running("link", 5)

    def listen(self, fd: int, port: int) -> socket.socket:
        made = in_namespace(fd, lambda: socket.create_server(("0.0.0.0", port)))
        made.settimeout(5)
        self.sockets.append(made)
        return made

    def close(self) -> None:
        for made in self.sockets:
            made.close()
        os.close(self.far)
        os.close(self.neighbour)


ANYWHERE = IPv4Network("0.0.0.0/0")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The world, and this thread on its host."""
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    unshare(CLONE_NEWNET)
    # A new namespace forwards if the machine does, as one with a container engine may.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(f"search example.org\nnameserver {RESOLVER}\nnameserver 8.8.4.4\nnameserver ::1\n")
    monkeypatch.setattr(uplink, "RESOLV_CONFS", (resolv_conf,))
    made = World()
    try:
        yield made
    finally:
        made.close()
        setns(before, CLONE_NEWNET)
        os.close(before)


TOOLS: dict[str, Callable[[], firewall.Firewall]] = {"iptables": firewall.Iptables, "nft": firewall.Nft}


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> firewall.Firewall:
    if subprocess.run(["which", request.param], capture_output=True).returncode:
        pytest.skip(f"{request.param} is not installed")
    made = TOOLS[request.param]()
    monkeypatch.setattr(firewall, "find", lambda: made)
    return made


def reaches(fd: int, address: str, port: int = PORT, family: int = socket.AF_INET, seconds: float = 10.0) -> bool:
    """Whether a TCP connection from that namespace comes about; a first packet may be lost on a busy machine."""

    def connect() -> bool:
        with socket.socket(family, socket.SOCK_STREAM) as made:
            made.settimeout(seconds)
            try:
                made.connect((address, port))
            except OSError:
                return False
            return True

    return in_namespace(fd, connect)


def is_cut_off(fd: int, address: str, port: int = PORT, family: int = socket.AF_INET) -> bool:
    """Whether no TCP connection from that namespace comes about at once."""
    return not reaches(fd, address, port, family, seconds=0.4)
