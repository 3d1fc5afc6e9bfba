"""The door on its own, as `compose.yaml` starts it: what it lets in, what it refuses, that Redis keeps to its users."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from faaspot_api.supervisor.doorman import NOT_HERE
from faaspot_runner.contract import REPORTS, SUPERVISOR, RunEnded, SpotRequest, dump, load, reply_key
from faaspot_runner.contract.spots import SEALED_FOR, Credentials
from faaspot_runner.seal import open_sealed
from tests.platforms import eventually
from tests.redis_sentinels import free_ports
from tests.redis_servers import PASSWORD, RedisServer, running_redis

IP = "10.0.0.2"
SPOT_KEY = bytes(range(32))


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "faaspot_api", "door", *words]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def port(server: RedisServer, tmp_path: Path) -> Iterator[int]:
    """Where the door listens."""
    (port,) = free_ports(1)
    (tmp_path / "spot.key").write_bytes(SPOT_KEY)
    said = {"REDIS_URL": server.url, "REDIS_PASSWORD": PASSWORD, "SPOTS_LISTEN": f"127.0.0.1:{port}"}
    environ = {f"FAASPOT_{name}": value for name, value in {**said, "DATA_DIR": str(tmp_path / "door")}.items()}
    door = subprocess.Popen(command("--spot-key", str(tmp_path / "spot.key")), env={**os.environ, **environ})
    yield port
    door.terminate()
    assert door.wait(20) == 0


def asked(server: RedisServer, action: str, key: str | None = None) -> RunEnded:
    """What the door says to a request."""
    request = SpotRequest(execution_id=action, attempt=1, token="t", action=action, ip=IP, key=key)  # type: ignore[arg-type]
    with server.client() as client:
        client.rpush(SUPERVISOR, dump(request))
        if action == "admit":
            found = client.blpop([reply_key(action)], 20)
            assert found is not None
            event = load(found[1])  # type: ignore[index]
            assert isinstance(event, RunEnded)
            return event
        return eventually(lambda: reported(client, action), 20, f"{action} ends")


def reported(client: redis.Redis, execution: str) -> RunEnded | None:
    events = [load(fields[b"event"]) for _, fields in client.xrange(REPORTS)]  # type: ignore[union-attr]
    return next((each for each in events if isinstance(each, RunEnded) and each.execution_id == execution), None)


def test_it_lets_a_spot_in_and_passes_it_on_over_tls(server: RedisServer, port: int, tmp_path: Path) -> None:
    own = X25519PrivateKey.generate()
    key = base64.b64encode(own.public_key().public_bytes_raw()).decode()
    ended = asked(server, "admit", key)
    assert ended.status == "Success"
    assert ended.output is not None
    sealed = base64.b64decode(ended.output.strip('"'))
    given = Credentials.of(open_sealed(own.private_bytes_raw(), sealed, SEALED_FOR))
    assert base64.b64decode(given.spot_key) == SPOT_KEY
    assert (urlsplit(given.redis).port, given.pinned) == (port, True)
    (tmp_path / "authority.pem").write_text(given.authority)
    user = urlsplit(given.redis).username
    with redis.Redis(
        port=port, ssl=True, ssl_ca_certs=str(tmp_path / "authority.pem"), ssl_check_hostname=False,
        username=user, password=given.password,
    ) as client:  # fmt: skip
        assert client.ping()
        with pytest.raises(redis.ResponseError, match=r"(?i)permission"):
            client.execute_command("KEYS", "*")


def test_what_only_fas_up_can_do_is_refused_at_once(server: RedisServer, port: int) -> None:
    ended = asked(server, "add")
    assert ended.error is not None
    assert (ended.status, ended.error.message) == ("Failure", NOT_HERE)


@pytest.mark.parametrize(
    ("environ", "says"),
    [({}, "--redis-url"), ({"FAASPOT_REDIS_URL": "redis://127.0.0.1:1/0"}, "--spot-key")],
)
def test_what_is_missing_is_one_line(tmp_path: Path, environ: dict[str, str], says: str) -> None:
    given = {**os.environ, "FAASPOT_DATA_DIR": str(tmp_path), **environ}
    done = subprocess.run(command(), env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr
