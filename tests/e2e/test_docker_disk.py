"""Containers on a full disk: the engine's, and the spot's own. A clear reason, nothing left, and work again with space."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import docker_engine
from tests.e2e.test_docker import NO_BLANKS
from tests.platforms import Platform, eventually, platform
from tests.unit.runner.engine_relay import EngineRelay, relaying

pytestmark = [pytest.mark.root, pytest.mark.slow]

HELLO = "def main(args, context):\n    return 'hello'\n"
IDNA = "import idna\ndef main(args, context):\n    return idna.encode('ä.example').decode()\n"
NO_SPACE = "write /var/lib/docker/x: no space left on device"


class FullEngine(EngineRelay):
    """While `full` an engine that can store nothing: it refuses what would make a container or an image."""

    full = False
    _MAKES = re.compile(rb"POST (/v[0-9.]+)?/(containers/create|build|images/create)")

    def _hand_over(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.full and self._MAKES.match(data):
                    source.sendall(refusal())
                    source.shutdown(socket.SHUT_RDWR)
                    break
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def refusal() -> bytes:
    """What an engine says that has no space."""
    body = f'{{"message": "{NO_SPACE}"}}'.encode()
    head = f"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


@pytest.fixture(scope="module")
def engine() -> Iterator[FullEngine]:
    with relaying(FullEngine) as relay:
        yield relay


@pytest.fixture(scope="module")
def running(engine: FullEngine) -> Iterator[Platform]:
    environ = {"FAASPOT_SPOT_DOCKER_IMAGE": docker_engine.IMAGE, "FAASPOT_SPOT_DOCKER_HOST": engine.url}
    with platform("root", environ={**environ, **NO_BLANKS, "FAASPOT_MAX_ATTEMPTS": "1"}) as running:
        running.deploy("warm", HELLO, runtime="docker")
        assert running.run("warm").json == "hello"
        yield running
        data = running.data
    assert docker_engine.objects(docker_engine.platform_of(data)) == []


def objects(running: Platform) -> list[str]:
    return docker_engine.objects(docker_engine.platform_of(running.data))


def hatches(running: Platform) -> list[Path]:
    """Directories of containers that are being started."""
    return [
        path for place in running.data.rglob("docker") if place.is_dir() for path in place.iterdir() if path.is_dir()
    ]


def test_an_engine_without_space_fails_builds_and_starts_with_its_words_until_it_has_some(
    running: Platform, engine: FullEngine
) -> None:
    running.deploy("cold", HELLO, runtime="docker")
    before = objects(running)
    engine.full = True
    try:
        lost = running.run("cold")
        assert lost.status >= 500, lost
        assert NO_SPACE in lost.json["message"], lost
        body = {"name": "packed", "code": IDNA, "requirements": "idna==3.7", "runtime": "docker"}
        record = running.ended(running.call("PUT", "deployments/", body).json, 60)
        assert (record["status"], record["reason"]) == ("Failure", "build_failed")
        assert NO_SPACE in record["error"]["message"]
        assert running.run("warm").json == "hello", "what is warm stores nothing"
        assert (objects(running), hatches(running)) == (before, [])
    finally:
        engine.full = False
    assert running.run("cold").json == "hello"
    again = running.call("PATCH", "deployments/packed", {"requirements": "idna==3.7"}).json["uuid"]
    assert running.ended(again)["status"] == "Success", running.logs(again)
    assert running.run("packed").json == "xn--4ca.example"
    for name in ("cold", "packed"):
        running.undeploy(name)
    eventually(lambda: objects(running) == before, 15, "what the recovered engine made goes too")


@pytest.fixture
def full_directory(running: Platform) -> Iterator[Path]:
    """The runtime's directory on a small filesystem without a free block, as the spot sees it."""
    (spot,) = running.processes("faaspot_runner spot")
    (directory,) = {path for path in running.data.rglob("docker") if path.is_dir()}
    within = ["nsenter", "--target", str(spot), "--mount"]
    packed = (directory / "launcher.zip").read_bytes()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "faaspot-test", str(directory)]
    subprocess.run([*within, *mount], check=True)
    try:
        seen = Path(f"/proc/{spot}/root{directory}")
        (seen / "launcher.zip").write_bytes(packed)
        (seen / "launcher.zip").chmod(0o444)
        with (seen / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(b"x" * 4096):
                pass
        yield seen
    finally:
        subprocess.run([*within, "umount", str(directory)], check=True)


def test_a_spot_without_space_for_a_hatch_says_so_and_leaves_none(running: Platform, full_directory: Path) -> None:
    running.deploy("late", HELLO, runtime="docker")
    before = objects(running)
    lost = running.run("late")
    assert (lost.status, lost.json["error_code"]) == (503, "no_spot"), lost
    assert os.strerror(28) in lost.json["message"], lost
    assert objects(running) == before
    assert sorted(path.name for path in full_directory.iterdir()) == ["filler", "launcher.zip"]
    (full_directory / "filler").unlink()
    assert running.run("late").json == "hello"
    running.undeploy("late")
    eventually(lambda: objects(running) == before, 15)
