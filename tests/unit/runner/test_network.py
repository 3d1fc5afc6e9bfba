"""`network: internet` against a small world of our own, which `network_world` draws."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faaspot_runner.agent.syscalls import CLONE_NEWNET, setns, unshare
from faaspot_runner.sandbox import firewall, uplink
from faaspot_runner.sandbox.netns import in_namespace
from faaspot_runner.sandbox.network import Egress, EgressUnavailable, NetworkLease, unavailable
from tests.unit.runner.network_world import FAR, PORT, RESOLVER, World, is_cut_off, reaches

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can link network namespaces")


@pytest.fixture
def egress(world: World, tool: firewall.Firewall) -> Iterator[Egress]:
    made = Egress.open("unit")
    yield made
    made.close()


@pytest.fixture
def lease(egress: Egress) -> Iterator[NetworkLease]:
    made = egress.lease()
    yield made
    made.release()


def test_public_addresses_are_reached_under_the_hosts_address(world: World, lease: NetworkLease) -> None:
    assert reaches(lease.fd, "9.9.9.9")
    connection, peer = world.server.accept()
    connection.close()
    assert peer[0] == "198.51.100.2"


@pytest.mark.parametrize("address", [*FAR[2:], "198.51.100.1", "10.77.0.2", "255.255.255.255", "224.0.0.1", "0.0.0.0"])
def test_nothing_private_and_no_metadata_service_is_reached(lease: NetworkLease, address: str) -> None:
    assert is_cut_off(lease.fd, address)


def test_the_host_is_reached_by_none_of_its_addresses(egress: Egress, lease: NetworkLease) -> None:
    ours = [str(egress._net[2]), "198.51.100.2", "10.77.0.1", "5.5.5.5", "127.0.0.1"]
    with socket.create_connection(("5.5.5.5", PORT), timeout=1):
        pass
    assert [address for address in ours if not is_cut_off(lease.fd, address)] == []


def test_an_ipv6_socket_is_no_way_around(lease: NetworkLease) -> None:
    """E17: the kernel sends to ::ffff:a.b.c.d by IPv4, under the same rules; there is no IPv6 beside ::1."""
    assert reaches(lease.fd, "::ffff:9.9.9.9", family=socket.AF_INET6)
    assert is_cut_off(lease.fd, "::ffff:169.254.169.254", family=socket.AF_INET6)
    assert is_cut_off(lease.fd, "::ffff:10.1.2.3", family=socket.AF_INET6)
    addresses = in_namespace(lease.fd, lambda: Path("/proc/thread-self/net/if_inet6").read_text().split("\n"))
    assert {line.split()[-1] for line in addresses if line} <= {"lo"}


def test_of_a_private_resolver_port_53_is_reached_and_nothing_else(lease: NetworkLease) -> None:
    assert lease.resolv_conf == f"nameserver {RESOLVER}\nnameserver 8.8.4.4\noptions timeout:2 attempts:2\n"
    assert reaches(lease.fd, RESOLVER, 53)
    assert is_cut_off(lease.fd, RESOLVER, PORT)
    assert is_cut_off(lease.fd, "10.1.2.3", 53)


def test_a_name_server_answers_over_udp(world: World, lease: NetworkLease) -> None:
    server = in_namespace(world.far, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    client = in_namespace(lease.fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with server, client:
        server.bind((RESOLVER, 53))
        server.settimeout(2)
        client.settimeout(2)
        client.sendto(b"who?", (RESOLVER, 53))
        question, peer = server.recvfrom(100)
        server.sendto(b"me", peer)
        assert (question, client.recv(100)) == (b"who?", b"me")


def test_sandboxes_do_not_reach_each_other(world: World, egress: Egress, lease: NetworkLease) -> None:
    other = egress.lease()
    world.listen(other.fd, PORT)
    assert lease.address != other.address
    assert is_cut_off(lease.fd, other.address)
    assert reaches(other.fd, other.address), "it does listen"
    other.release()


def test_nobody_reaches_into_a_sandbox(world: World, lease: NetworkLease) -> None:
    world.listen(lease.fd, PORT)
    assert is_cut_off(world.far, lease.address)
    assert is_cut_off(world.neighbour, lease.address)


def test_the_host_becomes_no_router_for_its_neighbours(world: World, lease: NetworkLease) -> None:
    assert reaches(lease.fd, "9.9.9.9")
    assert is_cut_off(world.far, "10.77.0.2")
    assert is_cut_off(world.neighbour, "9.9.9.9")
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "0\n"


def test_a_host_that_forwards_goes_on_forwarding(world: World, tool: firewall.Firewall) -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    assert reaches(world.far, "10.77.0.2")
    egress = Egress.open("unit")
    assert tool.guarded() is None
    assert reaches(world.far, "10.77.0.2")
    egress.close()
    assert reaches(world.far, "10.77.0.2")


def rules() -> list[str]:
    """All that the packet filter holds, by either tool."""
    text = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
    return [line for line in text.splitlines() if "faas" in line]


def test_a_closed_egress_leaves_the_host_as_it_was(world: World, tool: firewall.Firewall) -> None:
    def host() -> tuple[object, ...]:
        forwarding = Path("/proc/sys/net/ipv4/conf/wan0/forwarding").read_text()
        return socket.if_nameindex(), forwarding, rules(), Path("/proc/thread-self/net/route").read_text()

    before = host()
    egress = Egress.open("unit")
    egress.lease()
    assert host() != before
    egress.close()
    egress.close()
    assert host() == before


def test_the_last_of_several_spots_switches_forwarding_off(world: World, tool: firewall.Firewall) -> None:
    forwarding = Path("/proc/sys/net/ipv4/conf/wan0/forwarding")
    first, second = Egress.open("one"), Egress.open("two")
    lease = second.lease()
    first.close()
    assert reaches(lease.fd, "9.9.9.9")
    assert is_cut_off(world.far, "10.77.0.2")
    lease.release()
    second.close()
    assert forwarding.read_text() == "0\n"
    assert tool.guarded() is None


def test_what_a_killed_spot_left_is_swept_by_its_next_start(world: World, tool: firewall.Firewall) -> None:
    """F20. Its links are gone with it; the guard keeps standing until then."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            Egress.open("unit").lease()
            os.write(writer, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"."
    os.close(reader)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + 10
    while any(name.startswith("faas") for _, name in socket.if_nameindex()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(name.startswith("faas") for _, name in socket.if_nameindex())
    assert rules()
    assert is_cut_off(world.far, "10.77.0.2")
    egress = Egress.open("unit")
    lease = egress.lease()
    assert reaches(lease.fd, "9.9.9.9")
    lease.release()
    egress.close()
    assert rules() == []


def test_a_released_lease_has_no_link_any_more(egress: Egress) -> None:
    lease = egress.lease()
    fd = os.dup(lease.fd)
    assert reaches(fd, "9.9.9.9")
    lease.release()
    lease.release()
    deadline = time.monotonic() + 5
    while not is_cut_off(fd, "9.9.9.9") and time.monotonic() < deadline:
        pass
    assert is_cut_off(fd, "9.9.9.9")
    os.close(fd)
    assert egress.lease().address != lease.address, "an address rests before it is given again"


def test_further_networks_can_be_denied(world: World, tool: firewall.Firewall) -> None:
    egress = Egress.open("unit", deny=("9.9.9.0/24",))
    lease = egress.lease()
    assert is_cut_off(lease.fd, "9.9.9.9")
    assert reaches(lease.fd, "8.8.4.4")
    lease.release()
    egress.close()


def test_a_lease_comes_in_milliseconds(egress: Egress) -> None:
    egress.lease().release()
    spent = []
    for _ in range(10):
        began = time.perf_counter()
        lease = egress.lease()
        spent.append(time.perf_counter() - began)
        lease.release()
    assert sorted(spent)[5] < 0.1


def _refused() -> str:
    with pytest.raises(EgressUnavailable) as caught:
        Egress.open("unit")
    assert unavailable() == str(caught.value)
    return str(caught.value)


def test_an_ordinary_user_is_told_why_it_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "start the platform as root" in (unavailable() or "")


def test_a_host_without_a_packet_filter_is_told_what_to_install(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install iptables" in _refused()


def test_a_host_whose_only_resolver_is_its_own_is_told(world: World) -> None:
    uplink.RESOLV_CONFS[0].write_text("nameserver 127.0.0.53\nnameserver ::1\n")
    assert "loopback" in _refused()


def test_a_host_without_a_way_out_offers_none() -> None:
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    unshare(CLONE_NEWNET)
    try:
        assert "no IPv4 default route" in (unavailable() or "")
    finally:
        setns(before, CLONE_NEWNET)
        os.close(before)
