"""A request to an address that somebody else named: what it reaches, what it never does, and that it always ends."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from faaspot_api import outgoing
from faaspot_api.outgoing import RefusedAddressError, Walls, post
from tests.receivers import Receiver, receiving
from tests.unit.api.test_supervisor_tls import write_pair

OPEN = Walls(allowed=(ip_network("127.0.0.0/8"),))
HEADERS = {"webhook-id": "x", "Content-Type": "application/json"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def send(url: str, walls: Walls = OPEN, seconds: float = 5.0) -> int:
    return post(url, b"{}", HEADERS, walls, seconds)


def test_the_body_and_the_headers_arrive(receiver: Receiver) -> None:
    assert send(receiver.url + "/hook?a=1") == 204
    (told,) = receiver.told
    assert (told.path, told.body, told.headers["webhook-id"]) == ("/hook?a=1", b"{}", "x")


def test_a_redirect_is_answered_and_not_followed() -> None:
    with receiving(lambda _number: 302) as receiver:
        assert send(receiver.url) == 302
        assert len(receiver.told) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[::1]"])
def test_nothing_of_this_machine_is_reached_however_it_is_spelled(receiver: Receiver, host: str) -> None:
    port = receiver.url.rsplit(":", 1)[1]
    with pytest.raises(OSError):  # noqa: PT011 (refused, or no such name: nothing arrives)
        send(f"http://{host}:{port}/", Walls())
    assert receiver.told == []


def test_a_name_that_cannot_be_one_is_an_address_that_is_not_there() -> None:
    with pytest.raises(OSError, match=r"a\.\.b is no host name"):
        send("http://a..b/")


def test_a_name_with_an_inner_address_is_refused_and_one_that_turns_has_been_looked_up_once(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(receiver.url.rsplit(":", 1)[1])
    lookups: list[str] = []

    def rebinding(host: str, *_: Any, **__: Any) -> list[Any]:
        """Public at the first lookup, this machine at every other."""
        lookups.append(host)
        address = "93.184.216.34" if len(lookups) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    connected: list[Any] = []

    def connect(address: Any, timeout: float) -> socket.socket:
        connected.append(address)
        raise OSError("unreachable in this test")

    monkeypatch.setattr(outgoing.socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(outgoing.socket, "create_connection", connect)
    with pytest.raises(OSError, match="unreachable"):
        send(f"http://turning.example:{port}/", Walls())
    assert connected == [("93.184.216.34", port)]
    with pytest.raises(RefusedAddressError):
        send(f"http://turning.example:{port}/", Walls())
    assert len(connected) == 1


def test_the_machines_own_public_address_and_the_platforms_hosts_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(host: str, port: int, **_: Any) -> list[Any]:
        address = {"db.example": "93.184.216.34", "db-alias.example": "93.184.216.34", "mine.example": "8.8.8.8"}[host]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(outgoing.socket, "getaddrinfo", lookup)
    walls = Walls(closed=("db.example",))
    with pytest.raises(RefusedAddressError):
        walls.addresses("db-alias.example", 80)
    assert walls.addresses("mine.example", 80)
    monkeypatch.setattr(outgoing, "_is_own", lambda address: str(address) == "8.8.8.8")
    with pytest.raises(RefusedAddressError):
        walls.addresses("mine.example", 80)


def test_the_machines_own_addresses_are_known() -> None:
    assert outgoing._is_own(outgoing.ip_address("127.0.0.1"))
    assert not outgoing._is_own(outgoing.ip_address("93.184.216.34"))


def test_a_name_server_that_never_answers_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def lookup(*_: Any, **__: Any) -> list[Any]:
        over.wait(10)
        raise OSError("no such name")

    monkeypatch.setattr(outgoing.socket, "getaddrinfo", lookup)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"slow\.example was not looked up in time"):
        send("http://slow.example/", seconds=0.3)
    assert time.monotonic() - began < 5
    over.set()


def test_one_that_never_answers_is_given_up_in_time() -> None:
    with receiving(lambda _number: None) as receiver:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=r"no answer within 0\.3 s"):
            send(receiver.url, seconds=0.3)
        assert time.monotonic() - began < 5


def test_one_that_drips_its_answer_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        over = threading.Event()

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not over.wait(0.05):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(TimeoutError):
            send(f"http://127.0.0.1:{server.getsockname()[1]}/", seconds=0.4)
        over.set()
        thread.join(5)


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    certfile, keyfile = write_pair(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certfile, keyfile)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection, pytest.raises(ssl.SSLError):
                context.wrap_socket(connection, server_side=True).recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(OSError, match="certificate"):
            send(f"https://127.0.0.1:{server.getsockname()[1]}/")
        thread.join(5)


def test_what_does_not_speak_http_is_an_error_with_a_text() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\0\1\2 nonsense\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(OSError, match=r"nonsense|BadStatusLine"):
            send(f"http://127.0.0.1:{server.getsockname()[1]}/")
        thread.join(5)
