"""The door: TLS in front of the private Redis, by a certificate that vouches for itself and stands for no other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from faaspot_api import door as listener
from faaspot_api.supervisor import door
from faaspot_api.supervisor.directory import DataDirectory
from faaspot_api.supervisor.errors import CannotStartError
from tests.platforms import eventually
from tests.redis_servers import PASSWORD, running_redis


@dataclass(frozen=True)
class Opened:
    port: int
    authority: Path

    def client(self, authority: Path | None = None) -> redis.Redis:
        """As a spot connects."""
        return redis.Redis(
            host="127.0.0.1", port=self.port, password=PASSWORD, ssl=True, ssl_check_hostname=False,
            ssl_ca_certs=str(authority or self.authority), socket_timeout=5,
        )  # fmt: skip


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    directory = DataDirectory(path=tmp_path_factory.mktemp("data"), uid=None)
    pair = door.certificate(directory)
    with running_redis() as server, socket.create_server(("127.0.0.1", 0)) as listening:
        environ = {
            **os.environ,
            "FAASPOT_CERTFILE": str(pair.certfile),
            "FAASPOT_KEYFILE": str(pair.keyfile),
            "FAASPOT_REDIS_SOCKET": str(server.prepared.socket),
        }
        command = [sys.executable, "-P", "-m", "faaspot_api", "door", "--fd", str(listening.fileno())]
        process = subprocess.Popen(command, env=environ, pass_fds=[listening.fileno()])
        try:
            yield Opened(port=listening.getsockname()[1], authority=door.certificate_file(directory))
        finally:
            process.terminate()
            assert process.wait(10) == 0


def test_what_goes_in_comes_to_redis_and_back(opened: Opened) -> None:
    with opened.client() as client:
        value = os.urandom(1_000_000)
        assert client.set("blob", value)
        assert client.get("blob") == value


def test_who_has_another_certificate_or_no_password_does_not_come_through(opened: Opened, tmp_path: Path) -> None:
    other = door.certificate(DataDirectory(path=tmp_path, uid=None))
    with opened.client(other.certfile) as client, pytest.raises(redis.ConnectionError, match=r"(?i)certificate"):
        client.ping()
    with socket.create_connection(("127.0.0.1", opened.port), timeout=10) as plain:
        plain.sendall(b"PING\r\n")
        assert b"PONG" not in plain.recv(100)
    with opened.client() as client:
        client.connection_pool.connection_kwargs["password"] = "wrong"
        with pytest.raises(redis.AuthenticationError):
            client.ping()


def test_an_end_that_closes_closes_the_other(opened: Opened) -> None:
    with opened.client() as watching:
        before = watching.info("clients")["connected_clients"]
        with opened.client() as client:
            client.ping()
            assert watching.info("clients")["connected_clients"] == before + 1
        eventually(lambda: watching.info("clients")["connected_clients"] == before, 10, "it is closed inside, too")


async def over(passing: listener._Door, *ends: asyncio.StreamWriter) -> None:
    """Close everything, and wait until it is."""
    passing.close()
    for end in ends:
        end.close()
        with contextlib.suppress(OSError):
            await end.wait_closed()
    while passing._open:
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("said", "answer"),
    [(b"", b""), (b"PING\r\n", b"-NOAUTH"), (b"AUTH default wrong\r\n", b"-WRONGPASS"), (b"RESET\r\n", b"+RESET")],
)
def test_who_brings_no_password_is_shown_out(monkeypatch: pytest.MonkeyPatch, said: bytes, answer: bytes) -> None:
    monkeypatch.setattr(listener, "STRANGER_SECONDS", 0.5)

    async def knock(path: str) -> None:
        passing = listener._Door(f"unix://{path}")
        async with await asyncio.start_server(passing.enter, "127.0.0.1", 0) as server:
            place = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*place)
            known, speaking = await asyncio.open_connection(*place)
            speaking.write(f"AUTH {PASSWORD}\r\n".encode())
            assert await known.readline() == b"+OK\r\n"
            writer.write(said)
            assert (await reader.read()).startswith(answer)  # and then the end
            speaking.write(b"PING\r\n")  # by now its own first half second is over
            assert await known.readline() == b"+PONG\r\n"
            await over(passing, writer, speaking)

    with running_redis() as server:
        asyncio.run(asyncio.wait_for(knock(str(server.prepared.socket)), 20))


def test_strangers_have_few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MOST_STRANGERS", 1)

    async def crowd(path: str) -> None:
        passing = listener._Door(f"unix://{path}")
        async with await asyncio.start_server(passing.enter, "127.0.0.1", 0) as server:
            place = server.sockets[0].getsockname()
            _, first = await asyncio.open_connection(*place)
            reader, second = await asyncio.open_connection(*place)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            await over(passing, first, second)

    with running_redis() as server:
        asyncio.run(asyncio.wait_for(crowd(str(server.prepared.socket)), 20))


def test_the_certificate_is_kept_and_stands_a_strict_look(tmp_path: Path) -> None:
    directory = DataDirectory(path=tmp_path, uid=None)
    pair = door.certificate(directory)
    text = pair.certfile.read_text()
    assert door.certificate(directory).certfile.read_text() == text
    assert pair.keyfile.stat().st_mode & 0o777 == 0o600
    outer = ssl.create_default_context(cafile=str(pair.certfile))
    outer.check_hostname = False
    outer.verify_flags |= ssl.VERIFY_X509_STRICT
    inner = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inner.load_cert_chain(pair.certfile, pair.keyfile)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = outer.wrap_bio(down, up), inner.wrap_bio(up, down, server_side=True)
    done: set[str] = set()
    for _ in range(5):
        for name, side in (("client", client), ("server", server)):
            try:
                side.do_handshake()
                done.add(name)
            except ssl.SSLWantReadError:
                continue
    assert done == {"client", "server"}


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("0.0.0.0:6380", "rediss://api:6380/0"),
        ("10.0.0.1:6380", "rediss://10.0.0.1:6380/0"),
        ("[::1]:6380", "rediss://[::1]:6380/0"),
        ("[::]:6380", "rediss://api:6380/0"),
    ],
)
def test_other_hosts_are_told_where_it_is(said: str, url: str) -> None:
    assert door.url(said) == url


@pytest.mark.parametrize("said", ["6380", "host", "host:", "host:x", "host:0", "host:70000"])
def test_what_is_no_place_is_refused(said: str) -> None:
    with pytest.raises(CannotStartError, match="--spots-listen"):
        door.place(said)
