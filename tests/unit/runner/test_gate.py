"""The allow-list (E17): real packets from a sandbox's namespace, names that turn, questions that are not answered."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import IPv4Address
from typing import Any

import pytest

from faaspot_runner.contract.egress import egress_rule
from faaspot_runner.sandbox import firewall, gate
from faaspot_runner.sandbox.gate import RESOLV_CONF
from faaspot_runner.sandbox.netns import in_namespace
from faaspot_runner.sandbox.network import Egress, NetworkLease
from tests.unit.runner.network_world import PORT, RESOLVER, World, is_cut_off, reaches

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can link network namespaces")

A, AAAA, TXT, NO_SUCH_NAME, SERVER_FAILED = 1, 28, 16, 3, 2


class Names:
    """The host's resolver, as far as the gate asks it: a name's addresses, or the error that it fails with."""

    def __init__(self) -> None:
        self.known: dict[str, list[str] | OSError] = {}
        self.asked: list[str] = []

    def lookup(self, name: str) -> list[IPv4Address]:
        self.asked.append(name)
        found = self.known.get(name, socket.gaierror(socket.EAI_NONAME, "no such name"))
        if isinstance(found, OSError):
            raise found
        return [IPv4Address(address) for address in found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(gate, "lookup", names.lookup)
    return names


@pytest.fixture
def egress(world: World, tool: firewall.Firewall) -> Iterator[Egress]:
    made = Egress.open("unit", deny=("9.9.8.0/24",))
    assert made.unlisted is None
    yield made
    made.close()


Opened = Callable[..., NetworkLease]


@pytest.fixture
def opened(egress: Egress) -> Iterator[Opened]:
    """A lease that is closed but for these items."""
    leases: list[NetworkLease] = []

    def open_(*items: str) -> NetworkLease:
        leases.append(egress.lease([egress_rule(item) for item in items]))
        return leases[-1]

    yield open_
    for lease in leases:
        lease.release()


def ask(lease: NetworkLease, name: str, kind: int = A, *, packet: bytes | None = None) -> tuple[int, list[str], int]:
    """What the resolver in the sandbox's namespace says: code, addresses, TTL of the first. -1: nothing."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    question = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)

    def talk() -> tuple[int, list[str], int]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(3 if packet is None else 0.3)
            sock.sendto(question if packet is None else packet, ("127.0.0.1", 53))
            try:
                answer = sock.recv(600)
            except TimeoutError:
                return -1, [], 0
        number, flags, _, count, _, _ = struct.unpack_from(">HHHHHH", answer)
        assert (number, flags & 0x8000) == (7, 0x8000)
        records = [answer[-16 * (each + 1) :][:16] for each in reversed(range(count))]
        ttl = struct.unpack_from(">I", records[0], 6)[0] if records else 0
        return flags & 15, [str(IPv4Address(record[12:16])) for record in records], ttl

    return in_namespace(lease.fd, talk)


# ---------------------------------------------------------------- addresses


def test_only_what_is_listed_is_reached(world: World, opened: Opened) -> None:
    world.listen(world.far, PORT + 1)
    lease = opened(f"9.9.9.9:{PORT}")
    assert reaches(lease.fd, "9.9.9.9")
    assert is_cut_off(lease.fd, "9.9.9.9", PORT + 1)
    assert is_cut_off(lease.fd, "8.8.4.4")


def test_networks_and_ranges_of_ports_are_meant_whole(world: World, opened: Opened) -> None:
    world.listen(world.far, PORT + 1)
    world.listen(world.far, PORT + 2)
    lease = opened(f"9.9.9.0/24:{PORT}-{PORT + 1}", f"8.0.0.0/6:{PORT + 2}")
    assert [reaches(lease.fd, "9.9.9.9", PORT + number) for number in range(3)] == [True, True, True]
    assert [is_cut_off(lease.fd, "8.8.4.4", PORT + number) for number in range(3)] == [True, True, False]


def test_an_ipv6_socket_is_held_to_the_same_list(opened: Opened) -> None:
    lease = opened(f"9.9.9.9:{PORT}", f"[2001:db8::1]:{PORT}")
    assert reaches(lease.fd, "::ffff:9.9.9.9", family=socket.AF_INET6)
    assert is_cut_off(lease.fd, "::ffff:8.8.4.4", family=socket.AF_INET6)
    assert is_cut_off(lease.fd, "::ffff:10.1.2.3", family=socket.AF_INET6)
    assert is_cut_off(lease.fd, "2001:db8::1", family=socket.AF_INET6)


def test_what_is_always_refused_stays_so_when_it_is_listed(world: World, opened: Opened) -> None:
    lease = opened("0.0.0.0/0:1-65535", f"169.254.169.254:{PORT}", f"10.1.2.3:{PORT}", f"198.51.100.2:{PORT}")
    inner = ("169.254.169.254", "10.1.2.3", "10.77.0.2", "198.51.100.2", "5.5.5.5", "168.63.129.16", RESOLVER)
    assert [address for address in inner if not is_cut_off(lease.fd, address)] == []
    assert reaches(lease.fd, "9.9.9.9")


def test_a_sandbox_without_a_list_and_one_with_it_stand_side_by_side(egress: Egress, opened: Opened) -> None:
    free, held = egress.lease(), opened(f"9.9.9.9:{PORT}")
    assert reaches(free.fd, "8.8.4.4")
    assert is_cut_off(held.fd, "8.8.4.4")
    free.release()


def test_nobody_reaches_into_it_and_its_own_loopback_is_its_own(world: World, opened: Opened) -> None:
    lease = opened("9.9.9.9:1-65535")
    world.listen(lease.fd, PORT)
    assert is_cut_off(world.far, lease.address)
    assert reaches(lease.fd, "127.0.0.1")


# ---------------------------------------------------------------- names


def test_a_listed_name_opens_its_addresses_at_its_ports(names: Names, opened: Opened) -> None:
    names.known["api.example.com"] = ["9.9.9.9"]
    lease = opened(f"API.example.com.:{PORT}")
    assert lease.resolv_conf == RESOLV_CONF
    assert is_cut_off(lease.fd, "9.9.9.9"), "nobody has asked yet"
    code, addresses, ttl = ask(lease, "api.EXAMPLE.com")
    assert (code, addresses) == (0, ["9.9.9.9"])
    assert 0 < ttl <= gate.FRESH
    assert reaches(lease.fd, "9.9.9.9")
    assert is_cut_off(lease.fd, "9.9.9.9", 53)
    assert is_cut_off(lease.fd, "8.8.4.4")


def test_what_is_not_listed_is_no_name_and_is_never_asked_for(names: Names, opened: Opened) -> None:
    names.known = {
        "other.example.com": ["9.9.9.9"],
        "secret.api.example.com": ["9.9.9.9"],
        "example.com": ["9.9.9.9"],
    }
    lease = opened(f"api.example.com:{PORT}")
    for name in ("other.example.com", "secret.api.example.com", "example.com", "com", "x" * 63 + ".example.com"):
        assert ask(lease, name) == (NO_SUCH_NAME, [], 0)
    assert names.asked == []


def test_no_other_way_to_a_name_server_is_open(opened: Opened) -> None:
    """A tunnel through port 53 needs somebody who hears it."""
    lease = opened("api.example.com:53")
    assert is_cut_off(lease.fd, RESOLVER, 53)
    assert is_cut_off(lease.fd, "8.8.4.4", 53)


@pytest.mark.parametrize("kind", [AAAA, TXT, 255])
def test_of_a_listed_name_only_its_ipv4_addresses_are_told(names: Names, opened: Opened, kind: int) -> None:
    names.known["api.example.com"] = ["9.9.9.9"]
    assert ask(opened(f"api.example.com:{PORT}"), "api.example.com", kind) == (0, [], 0)
    assert names.asked == []


INNER = [
    "127.0.0.1", "169.254.169.254", "10.1.2.3", "172.20.1.1", "192.168.55.5", "100.100.100.200", "168.63.129.16",
    "0.0.0.0", "255.255.255.255", "198.51.100.2", "5.5.5.5", "9.9.8.1",
]  # fmt: skip


@pytest.mark.parametrize("address", INNER)
def test_a_name_that_turns_to_an_inner_address_opens_nothing(
    monkeypatch: pytest.MonkeyPatch, names: Names, opened: Opened, address: str
) -> None:
    """DNS rebinding: first a public address, then loopback, metadata, a private network, one of the host's own."""
    monkeypatch.setattr(gate, "FRESH", 0.0)
    names.known["api.example.com"] = ["9.9.9.9"]
    lease = opened(f"api.example.com:{PORT}")
    assert ask(lease, "api.example.com")[1] == ["9.9.9.9"]
    names.known["api.example.com"] = [address]
    assert ask(lease, "api.example.com") == (NO_SUCH_NAME, [], 0)
    if address != "127.0.0.1":  # which is the sandbox's own
        assert is_cut_off(lease.fd, address)
    assert reaches(lease.fd, "9.9.9.9"), "programs keep what they were told"


def test_of_a_mixed_answer_only_the_public_part_is_told(names: Names, opened: Opened) -> None:
    names.known["api.example.com"] = ["10.1.2.3", "9.9.9.9", "127.0.0.1", "9.9.9.9"]
    assert ask(opened(f"api.example.com:{PORT}"), "api.example.com")[1] == ["9.9.9.9"]


def test_a_redirect_to_what_is_not_listed_ends_at_the_filter(world: World, names: Names, opened: Opened) -> None:
    """An HTTP redirect is one more connection, whatever the answer before it said."""
    names.known["api.example.com"] = ["9.9.9.9"]
    lease = opened(f"api.example.com:{PORT}")
    ask(lease, "api.example.com")

    def fetch() -> bytes:
        with socket.create_connection(("9.9.9.9", PORT), timeout=2) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return connection.recv(200)

    def serve() -> None:
        connection, _ = world.server.accept()
        with connection:
            connection.recv(200)
            connection.sendall(f"HTTP/1.0 302 Found\r\nLocation: http://169.254.169.254:{PORT}/\r\n\r\n".encode())

    server = threading.Thread(target=serve)
    server.start()
    assert b"169.254.169.254" in in_namespace(lease.fd, fetch)
    server.join()
    assert is_cut_off(lease.fd, "169.254.169.254")


def test_an_address_that_a_name_lost_leaves_and_a_standing_connection_goes_on(
    monkeypatch: pytest.MonkeyPatch, world: World, names: Names, opened: Opened
) -> None:
    monkeypatch.setattr(gate, "LINGER", 0.6)
    names.known["api.example.com"] = ["9.9.9.9"]
    lease = opened(f"api.example.com:{PORT}")
    ask(lease, "api.example.com")
    with closing(in_namespace(lease.fd, lambda: socket.create_connection(("9.9.9.9", PORT), timeout=2))) as standing:
        connection, _ = world.server.accept()
        with connection:
            deadline = time.monotonic() + 5
            while not is_cut_off(lease.fd, "9.9.9.9") and time.monotonic() < deadline:
                world.server.accept()[0].close()
            assert is_cut_off(lease.fd, "9.9.9.9")
            standing.sendall(b"still here")
            assert connection.recv(20) == b"still here"


def test_an_address_that_could_not_be_made_to_leave_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, world: World, names: Names, opened: Opened
) -> None:
    monkeypatch.setattr(gate, "LINGER", 0.5)
    monkeypatch.setattr(gate, "RETRY", 0.2)
    names.known["api.example.com"] = ["9.9.9.9"]
    lease = opened(f"api.example.com:{PORT}")
    ask(lease, "api.example.com")
    failures, confine = [firewall.FirewallError("busy")], gate.Gate._confine

    def fail_once(self: gate.Gate) -> None:
        if failures:
            raise failures.pop()
        confine(self)

    monkeypatch.setattr(gate.Gate, "_confine", fail_once)
    deadline = time.monotonic() + 5
    while not is_cut_off(lease.fd, "9.9.9.9") and time.monotonic() < deadline:
        world.server.accept()[0].close()
    assert failures == []
    assert is_cut_off(lease.fd, "9.9.9.9")


def test_a_lookup_serves_many_questions_and_is_made_again_when_it_is_old(
    monkeypatch: pytest.MonkeyPatch, names: Names, opened: Opened
) -> None:
    names.known["api.example.com"] = ["9.9.9.9"]
    lease = opened(f"api.example.com:{PORT}")
    for _ in range(5):
        assert ask(lease, "api.example.com")[1] == ["9.9.9.9"]
    assert names.asked == ["api.example.com"]
    monkeypatch.setattr(gate, "FRESH", 0.0)
    fresh = opened(f"api.example.com:{PORT}")
    for _ in range(3):
        ask(fresh, "api.example.com")
    assert len(names.asked) == 4


def test_a_name_server_that_is_away_costs_nothing_that_is_open(
    monkeypatch: pytest.MonkeyPatch, names: Names, opened: Opened
) -> None:
    monkeypatch.setattr(gate, "FRESH", 0.0)
    names.known["api.example.com"] = socket.gaierror(socket.EAI_AGAIN, "away")
    names.known["b.example.com"] = ["9.9.9.9"]
    lease = opened(f"api.example.com:{PORT}", f"b.example.com:{PORT}")
    assert ask(lease, "api.example.com") == (SERVER_FAILED, [], 0)
    asked = len(names.asked)
    assert ask(lease, "api.example.com")[0] == SERVER_FAILED
    assert len(names.asked) == asked, "not asked again at once"
    assert ask(lease, "b.example.com")[1] == ["9.9.9.9"]
    names.known["b.example.com"] = socket.gaierror(socket.EAI_AGAIN, "away")
    assert ask(lease, "b.example.com")[1] == ["9.9.9.9"], "what may still be reached"


def test_many_addresses_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch, names: Names, opened: Opened) -> None:
    monkeypatch.setattr(gate, "FRESH", 0.0)
    monkeypatch.setattr(gate, "MOST_KEPT", 3)
    lease = opened(f"api.example.com:{PORT}")
    for number in range(6):
        names.known["api.example.com"] = [f"9.9.9.{number + 1}"]
        assert ask(lease, "api.example.com")[1] == [f"9.9.9.{number + 1}"]
    names.known["api.example.com"] = [f"9.9.9.{number}" for number in range(1, 200)]
    assert len(ask(lease, "api.example.com")[1]) <= 3


def test_a_lookup_asks_for_the_full_name_and_for_ipv4_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def getaddrinfo(*question: Any) -> list[tuple[Any, ...]]:
        asked.append(question)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("9.9.9.9", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert gate.lookup("api.example.com") == [IPv4Address("9.9.9.9")]
    assert asked == [("api.example.com.", None, socket.AF_INET, socket.SOCK_STREAM)]


# ---------------------------------------------------------------- hostile questions

HEAD = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0)
LISTED = b"\x03api\x07example\x03com\0"
MALFORMED = {
    "nothing": b"",
    "a header alone": HEAD,
    "an answer": struct.pack(">HHHHHH", 7, 0x8180, 1, 0, 0, 0) + LISTED + b"\0\1\0\1",
    "an update": struct.pack(">HHHHHH", 7, 0x2800, 1, 0, 0, 0) + LISTED + b"\0\1\0\1",
    "two questions": struct.pack(">HHHHHH", 7, 0x0100, 2, 0, 0, 0) + LISTED + b"\0\1\0\1" + LISTED + b"\0\1\0\1",
    "a pointer": HEAD + b"\xc0\x0c\0\1\0\1",
    "a label that is too long": HEAD + b"\x40" + b"x" * 64 + b"\0\0\1\0\1",
    "a label beyond the end": HEAD + b"\x3fabc",
    "no end": HEAD + b"\x03api",
    "no type": HEAD + LISTED + b"\0",
    "the root": HEAD + b"\0\0\1\0\1",
    "another class": HEAD + LISTED + b"\0\1\0\3",
    "a dot in a label": HEAD + b"\x0bapi.example\x03com\0\0\1\0\1",
    "a name of 300": HEAD + (b"\x3f" + b"x" * 63) * 4 + b"\x20" + b"y" * 32 + b"\0\0\1\0\1",
    "too large": HEAD + LISTED + b"\0\1\0\1" + b"x" * 600,
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_no_plain_question_has_no_answer_and_harms_nobody(names: Names, opened: Opened, what: str) -> None:
    names.known["api.example.com"] = ["9.9.9.9"]
    lease = opened(f"api.example.com:{PORT}")
    assert ask(lease, "", packet=MALFORMED[what])[0] == -1
    assert ask(lease, "api.example.com")[1] == ["9.9.9.9"]


def test_a_flood_of_questions_costs_the_spot_little(names: Names, opened: Opened) -> None:
    names.known["api.example.com"] = ["9.9.9.9"]
    lease = opened(f"api.example.com:{PORT}")
    question = HEAD + b"\x05other\x07example\x03com\0\0\1\0\1"

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            end = time.monotonic() + 1
            while time.monotonic() < end:
                sock.sendto(question, ("127.0.0.1", 53))

    threads = {thread.native_id for thread in threading.enumerate() if thread.name == "gate"}
    before = sum(map(_spent, threads))
    in_namespace(lease.fd, flood)
    assert sum(map(_spent, threads)) - before < 0.5
    lease.release()


def _spent(thread: int | None) -> float:
    """Processor seconds of one of our threads."""
    with open(f"/proc/self/task/{thread}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------- its end


def test_a_released_lease_leaves_no_thread_and_no_descriptor(names: Names, egress: Egress) -> None:
    names.known["api.example.com"] = ["9.9.9.9"]
    egress.lease([egress_rule("api.example.com:1")]).release()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        lease = egress.lease([egress_rule("api.example.com:1")])
        ask(lease, "api.example.com")
        lease.release()
        lease.release()
    assert not [thread for thread in threading.enumerate() if thread.name == "gate"]
    deadline = time.monotonic() + 5
    while len(os.listdir("/proc/self/fd")) > before + 1 and time.monotonic() < deadline:
        pass  # spare leases come and go behind the scenes
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_filter_that_cannot_be_put_in_place_gives_no_lease(
    monkeypatch: pytest.MonkeyPatch, world: World, tool: firewall.Firewall
) -> None:
    def refuse(_: object) -> None:
        raise firewall.FirewallError("no such table")

    monkeypatch.setattr(tool, "confine", refuse)
    egress = Egress.open("unit")
    try:
        assert "no such table" in (egress.unlisted or "")
        with pytest.raises(OSError, match="no such table"):
            egress.lease([egress_rule("9.9.9.9:443")])
        egress.lease().release()
    finally:
        egress.close()
