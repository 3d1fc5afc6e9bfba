"""An engine that hangs, dies or is not ours: what the spot does with it holds up nothing else and leaves nothing."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from urllib3.exceptions import ProtocolError

from faaspot_runner.connectors import CONNECTORS
from faaspot_runner.connectors.base import Connector, DeploymentConfig
from faaspot_runner.docker import engine as module
from faaspot_runner.docker import image, place
from faaspot_runner.docker.config import DockerConfig
from faaspot_runner.docker.container import Container
from faaspot_runner.docker.engine import Engine, Owner
from faaspot_runner.docker.hatch import Hatch
from faaspot_runner.docker.image import Images
from faaspot_runner.errors import EngineAway, EngineError, ImageError, SandboxError
from tests import docker_engine
from tests.unit.runner.engine_relay import EngineRelay
from tests.unit.runner.sandbox_driver import interpreter
from tests.unit.runner.test_docker_connector import PYTHON, SAME, material, opened, run, spec

pytestmark = pytest.mark.timeout(60)

HELD = 8
"""How many questions are asked at once."""


@pytest.fixture
def relay() -> Iterator[EngineRelay]:
    docker_engine.needed()
    with tempfile.TemporaryDirectory(prefix="faaspot-tests-") as directory:
        relay = EngineRelay(Path(directory) / "docker.sock")
        yield relay
        relay.close()
    assert docker_engine.objects() == []


def docker_on(relay: EngineRelay, directory: Path, **more: Any) -> Connector:
    given = docker_engine.connector_config(directory, engine=Engine(relay.url, {}), **more)
    return CONNECTORS["docker"](DeploymentConfig(name="docker", type="docker", config=given))


async def plain() -> Connector:
    """The runtime `sandbox`, up, on an event loop that has one thread for all that is not the engine's."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    connector = CONNECTORS["sandbox"](DeploymentConfig(name="sandbox", type="sandbox", config={}))
    await connector.deploy(False)
    return connector


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not look():
            await asyncio.sleep(0.01)


def images(engine: Engine, name: str = docker_engine.IMAGE, **more: Any) -> Images:
    owner = Owner(platform=docker_engine.PLATFORM, spot="127.0.0.1")
    return Images(engine, owner, DockerConfig(image=name, **more), "docker")


# ---------------------------------------------------------------- an engine that hangs


@pytest.mark.root
def test_calls_that_hang_do_not_keep_the_runtime_sandbox_from_starting(tmp_path: Path, relay: EngineRelay) -> None:
    async def story() -> None:
        sandboxes, connector = await plain(), docker_on(relay, tmp_path)
        await connector.deploy(False)
        assert await run(connector, SAME) == 2
        relay.hang(seconds=20)
        starts = [asyncio.create_task(opened(connector, SAME, str(number))) for number in range(HELD + 4)]
        await until(lambda: relay.held == HELD)
        async with asyncio.timeout(10):
            assert await run(sandboxes, SAME) == 2
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)
        relay.resume()
        await connector.undeploy(False)
        await sandboxes.undeploy(False)

    asyncio.run(story())


@pytest.mark.root
def test_an_end_that_hangs_keeps_no_other_sandbox_from_starting(tmp_path: Path, relay: EngineRelay) -> None:
    async def story() -> None:
        sandboxes, connector = await plain(), docker_on(relay, tmp_path)
        await connector.deploy(False)
        sandbox = await opened(connector)
        relay.hang("DELETE", seconds=20)
        end = asyncio.create_task(sandbox.stop())
        await until(lambda: relay.held == 1)
        async with asyncio.timeout(10):
            assert await run(sandboxes, SAME) == 2
        relay.resume()
        await end
        assert docker_engine.objects() == []
        await connector.undeploy(False)
        await sandboxes.undeploy(False)

    asyncio.run(story())


@pytest.mark.root
def test_a_start_that_fails_does_not_block_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relay: EngineRelay
) -> None:
    """The container is taken away again by an engine that hangs, and the loop goes on meanwhile."""

    async def refuse(*_: object) -> None:
        relay.hang("DELETE", seconds=10)
        raise SandboxError("no launcher")

    monkeypatch.setattr(Hatch, "connected", refuse)

    async def story() -> None:
        connector = docker_on(relay, tmp_path)
        await connector.deploy(False)
        start = asyncio.create_task(opened(connector))
        await until(lambda: relay.held == 1)
        assert not start.done()
        relay.resume()
        with pytest.raises(SandboxError, match="no launcher"):
            await start
        assert docker_engine.objects() == []
        await connector.undeploy(False)

    asyncio.run(story())


def test_what_gets_no_thread_in_time_is_not_made_and_what_takes_away_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TURN_SECONDS", 0.1)
    engine, go = Engine("unix:///nowhere.sock", {}), threading.Event()
    made: list[str] = []

    async def story() -> None:
        held = [asyncio.create_task(engine.background(go.wait, 10)) for _ in range(HELD)]
        await asyncio.sleep(0)
        with pytest.raises(EngineAway, match="8 questions wait for an answer already"):
            await engine.background(made.append, "late")
        gone = asyncio.create_task(engine.background(made.append, "gone"))
        await asyncio.sleep(0)
        gone.cancel()
        await engine.removal(made.append, "removed")
        go.set()
        assert await asyncio.gather(*held) == [True] * HELD
        await engine.background(made.append, "later")

    asyncio.run(story())
    assert made == ["removed", "later"]


@pytest.mark.root
def test_an_image_that_never_comes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, relay: EngineRelay) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 1)
    relay.hang("images/create")
    with pytest.raises(EngineAway):
        images(Engine(relay.url, {}), "127.0.0.1:9/faaspot-test-nowhere").base(interpreter(PYTHON), lambda _: None)


def test_a_fetch_that_goes_on_and_on_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "PULL_SECONDS", 0.05)

    class Slow:
        def pull(self, *_: object, **__: object) -> Iterator[dict[str, Any]]:
            while True:
                yield {"status": "Downloading"}
                time.sleep(0.01)

    with pytest.raises(ImageError, match=r"The image slow cannot be fetched: it took more than 0\.05 seconds"):
        image._pull(Slow(), "slow")  # type: ignore[arg-type]


def test_a_build_does_not_hold_up_the_starts_that_need_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is used while another image is made, however long that takes."""
    building, go = threading.Event(), threading.Event()
    there = images(Engine("unix:///nowhere.sock", {}))
    base = image.Base(id="sha256:" + "0" * 64, name="base", prefix="/usr", target=interpreter(PYTHON))

    def build(*_: object) -> None:
        building.set()
        go.wait()

    monkeypatch.setattr(there, "_is_there", lambda name: "new" not in name)
    monkeypatch.setattr(there, "_build", build)
    maker = threading.Thread(target=there.of_environment, args=(base, tmp_path / "new", lambda _: None))
    maker.start()
    assert building.wait(5)
    user = threading.Thread(target=there.of_environment, args=(base, tmp_path / "old", lambda _: None))
    user.start()
    user.join(5)
    hung = user.is_alive()
    go.set()
    maker.join()
    assert not hung


# ---------------------------------------------------------------- what is told


def test_an_engine_that_dies_in_the_middle_of_an_answer_is_one_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is read of an answer piece by piece is read without the library, which knows not of its errors then."""
    engine = Engine("unix:///nowhere.sock", {})
    monkeypatch.setattr(engine, "_connected", object)

    def build(_: object) -> None:
        raise ProtocolError("Connection broken: 12 bytes read")

    with pytest.raises(EngineAway, match=r"No Docker engine answers at unix:///nowhere.sock \(Connection broken"):
        engine.ask("build an image", build)


@pytest.mark.root
def test_a_python_that_hangs_is_told_as_the_images_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, relay: EngineRelay
) -> None:
    monkeypatch.setattr(image, "PROGRAM", "import time; time.sleep(600)")
    monkeypatch.setattr(image, "PROBE_SECONDS", 1)
    with pytest.raises(ImageError, match="did not tell of itself within 1 seconds"):
        images(Engine(relay.url, {})).base(interpreter(PYTHON), lambda _: None)


# ---------------------------------------------------------------- an undeploy meanwhile


@pytest.mark.root
@pytest.mark.parametrize("asked", ["a sandbox", "a place for many"])
def test_an_undeploy_during_a_start_leaves_no_container(tmp_path: Path, relay: EngineRelay, asked: str) -> None:
    async def story() -> None:
        connector = docker_on(relay, tmp_path)
        await connector.deploy(False)
        assert await run(connector, SAME) == 2
        relay.hang("containers/create")
        start: asyncio.Task[Any] = asyncio.create_task(
            opened(connector) if asked == "a sandbox" else connector.lodging(spec(), material(SAME))
        )
        await until(lambda: relay.held == 1)
        async with asyncio.timeout(10):
            await connector.undeploy(False)
        relay.resume()
        with pytest.raises(SandboxError, match="was undeployed while a sandbox of it was started"):
            await start
        assert docker_engine.objects() == []

    asyncio.run(story())


# ---------------------------------------------------------------- an engine that is not ours


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:2375", "ssh://someone@far", "127.0.0.1:2375"])
@pytest.mark.parametrize("by", ["setting", "environment"])
def test_an_engine_elsewhere_is_refused_with_what_to_say(url: str, by: str) -> None:
    engine = Engine(url, {}) if by == "setting" else Engine("", {"DOCKER_HOST": url})
    with pytest.raises(EngineError, match=f"engine at {url} is not asked: only one on this machine") as refused:
        engine.examine()
    assert "FAASPOT_SPOT_DOCKER_HOST=unix://" in str(refused.value)


class Way:
    """A way out that writes down for which networks it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def lease_in(self, namespace: int, rules: object) -> None:
        self.asked.append(os.fstat(namespace).st_ino)


@pytest.mark.root
def test_the_network_of_a_process_that_is_not_proven_to_be_the_launcher_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relay: EngineRelay
) -> None:
    async def nobody(*_: object) -> None:
        raise SandboxError("no launcher")

    monkeypatch.setattr(Hatch, "connected", nobody)
    way = Way()

    async def story() -> None:
        connector = docker_on(relay, tmp_path, egress=way)
        await connector.deploy(False)
        with pytest.raises(SandboxError, match="no launcher"):
            await run(connector, SAME, network="internet")
        await connector.undeploy(False)

    asyncio.run(story())
    assert way.asked == []


def test_a_container_that_has_our_own_network_gets_no_way_out() -> None:
    way: Any = Way()
    container = Container(Engine("unix:///nowhere.sock", {}), "c", os.getpid())
    with pytest.raises(SandboxError, match="this machine's own network"):
        place._connect(way, container, None)
    assert way.asked == []
