"""Redis where TLS or Sentinels stand in between: the same clients of both halves, on real servers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from faaspot_api.errors import Unavailable
from faaspot_api.queue.clients import open_client, translated
from faaspot_api.queue.rq import RedisQueue
from faaspot_runner.connections import connect, connect_async
from faaspot_runner.contract import QUEUE_SYNC
from faaspot_runner.contract.sentinels import Sentinels, sentinels
from faaspot_runner.line import Lines
from faaspot_runner.settings import Settings
from tests.contract.test_queue import attempt, run
from tests.platforms import eventually
from tests.redis_sentinels import GUARDS, SERVICE, Watched, free_ports, running_watched
from tests.redis_servers import PASSWORD, RedisServer, running_redis

# ---------------------------------------------------------------- the address


@pytest.mark.parametrize(
    ("url", "known"),
    [
        ("redis://host:6379/0", None),
        ("unix:///run/redis.sock", None),
        (
            "redis+sentinel://a,b:26380,[::1]:7/main/3?x=1",
            Sentinels(
                hosts=(("a", 26379), ("b", 26380), ("::1", 7)), service="main", server="redis://sentinels/3?x=1",
            ),
        ),
        (
            "rediss+sentinel://user:p%40ss@a:1/main",
            Sentinels(hosts=(("a", 1),), service="main", server="rediss://user:p%40ss@sentinels/0"),
        ),
    ],
)  # fmt: skip
def test_an_address_says_whom_to_ask(url: str, known: Sentinels | None) -> None:
    assert sentinels(url) == known


@pytest.mark.parametrize("rest", ["", "a", "a/", "/main", "a:x/main", "a/main/zero", ":1/main", "a,,b/main"])
def test_an_address_that_says_too_little_is_refused_with_the_form(rest: str) -> None:
    with pytest.raises(ValueError, match="SERVICE"):
        sentinels(f"redis+sentinel://{rest}")


# ---------------------------------------------------------------- Sentinels


@pytest.fixture
def watched() -> Iterator[Watched]:
    with running_watched() as running:
        yield running


@pytest.fixture
def runner_settings(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Settings]:
    monkeypatch.setenv("FAASPOT_REDIS_PASSWORD", PASSWORD)
    monkeypatch.setenv("FAASPOT_REDIS_SENTINEL_PASSWORD", GUARDS)
    return lambda url: Settings(redis_url=url)


@pytest.mark.slow
def test_after_a_failover_both_halves_find_the_new_master_by_themselves(
    watched: Watched, runner_settings: Callable[[str], Settings]
) -> None:
    queue, worker = RedisQueue(open_client(watched.url, PASSWORD, GUARDS)), connect(runner_settings(watched.url), 2.0)
    lines = Lines(worker)
    queue.beat("before")
    assert worker.get("faaspot:recorder") == b"before"
    assert lines.ask("GET", "faaspot:recorder") == b"before"
    queue.enqueue_run(run(), QUEUE_SYNC)
    watched.kill_master()

    def written() -> bool:
        with contextlib.suppress(Unavailable):
            queue.beat("after")
            return True
        return False

    eventually(written, 30, "the queue writes to the new master")
    assert eventually(lambda: _get(worker), 20, "the worker reads from it") == b"after"
    assert lines.ask("GET", "faaspot:recorder") == b"after"
    queue.enqueue_run(run(2), QUEUE_SYNC)
    assert queue.enqueue_and_wait(run(3), QUEUE_SYNC, 0.01) is None
    assert queue.queued([attempt(run(2)), attempt(run(3))]) == {attempt(run(2)), attempt(run(3))}

    async def spot() -> object:
        client = connect_async(runner_settings(watched.url), 2.0)
        try:
            return await client.get("faaspot:recorder")
        finally:
            await client.aclose()
            for guard in client.connection_pool.sentinel_manager.sentinels:  # type: ignore[attr-defined]
                await guard.aclose()

    assert asyncio.run(spot()) == b"after"
    worker.close()


def _get(client: redis.Redis) -> object:
    with contextlib.suppress(redis.RedisError):
        return client.get("faaspot:recorder")
    return None


@pytest.mark.slow
def test_with_no_sentinel_the_queue_is_unavailable_and_says_so() -> None:
    (port,) = free_ports(1)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="cannot be reached"):
        RedisQueue(open_client(f"redis+sentinel://127.0.0.1:{port}/{SERVICE}", PASSWORD)).ping()
    assert time.monotonic() - began < 5, "nobody waits for those who are not there"


# ---------------------------------------------------------------- TLS


@dataclass(frozen=True)
class Tls:
    """A door with TLS before a server that has none: its port, and the certificate that it shows."""

    port: int
    certificate: Path


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[Tls]:
    certificate, key = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with running_redis() as server, socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, context, server), daemon=True).start()
        yield Tls(listener.getsockname()[1], certificate)
        listener.shutdown(socket.SHUT_RDWR)


def _certificate(home: Path) -> tuple[Path, Path]:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    begins = datetime.now(UTC) - timedelta(hours=1)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
        .not_valid_before(begins).not_valid_after(begins + timedelta(days=2)).add_extension(address, critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (home / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (home / "key.pem").write_bytes(private)
    return home / "cert.pem", home / "key.pem"


def _serve(listener: socket.socket, context: ssl.SSLContext, server: RedisServer) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_pass_on, args=(connection, context, server), daemon=True).start()


def _pass_on(connection: socket.socket, context: ssl.SSLContext, server: RedisServer) -> None:
    inner = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError), connection, inner:
        inner.connect(str(server.prepared.socket))
        with context.wrap_socket(connection, server_side=True) as outer:
            back = threading.Thread(target=_copy, args=(inner, outer))
            back.start()
            _copy(outer, inner)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_over_tls_the_certificate_is_checked(tls: Tls, runner_settings: Callable[[str], Settings]) -> None:
    good = f"rediss://127.0.0.1:{tls.port}/0?ssl_ca_certs={tls.certificate}"
    queue, worker = RedisQueue(open_client(good, PASSWORD)), connect(runner_settings(good), 2.0)
    queue.beat("over TLS")
    assert worker.get("faaspot:recorder") == b"over TLS"
    worker.close()
    with open_client(f"rediss://127.0.0.1:{tls.port}/0", PASSWORD) as unknown, pytest.raises(Unavailable), translated():
        unknown.ping()
    with open_client(f"redis://127.0.0.1:{tls.port}/0", PASSWORD) as plain, pytest.raises(Unavailable), translated():
        plain.ping()
