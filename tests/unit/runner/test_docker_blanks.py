"""Containers that stand ready before the code of the version that gets one is there; on a real engine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import docker
import pytest

from faaspot_runner.connectors import CONNECTORS
from faaspot_runner.connectors.base import Sandbox
from faaspot_runner.connectors.docker import DockerConnector
from faaspot_runner.sandbox.pidfd import pid_of
from tests import docker_engine
from tests.unit.runner.test_docker_connector import (
    ENVIRONMENT,
    SAME,
    _nothing_is_left,
    api,
    config,
    opened,
    published,
    run,
)

__all__ = ["_nothing_is_left", "api"]

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

GREETS = """\
import greeting

def main(args, context):
    return [greeting.BORN, greeting.CODE]
"""


def told(tmp_path: Path, story: Callable[[DockerConnector], Awaitable[None]]) -> None:
    """The story of a runtime that is up."""

    async def tell() -> None:
        connector = CONNECTORS["docker"](config(tmp_path, blanks=2))
        assert isinstance(connector, DockerConnector)
        await connector.deploy(False)
        try:
            await story(connector)
        finally:
            await connector.undeploy(False)
            await connector.forget(ENVIRONMENT)

    asyncio.run(tell())


async def standing(connector: DockerConnector, ready: int) -> None:
    """Return when so many stand ready and none is being made."""
    async with asyncio.timeout(30):
        while connector.blanks.standing != (ready, 0):
            await asyncio.sleep(0.01)


def containers(api: docker.APIClient) -> set[str]:
    return {each["Id"] for each in api.containers(filters={"label": f"faaspot.platform={docker_engine.PLATFORM}"})}


def container_of(sandbox: Sandbox) -> str:
    groups = Path(f"/proc/{pid_of(sandbox.fileno())}/cgroup").read_text()
    return groups.partition("/docker/")[2].split()[0].split("/")[0]


def test_the_next_version_gets_a_container_that_stood_ready_and_a_process_of_its_own(
    tmp_path: Path, api: docker.APIClient
) -> None:
    environment = published(tmp_path)
    package = next(environment.glob("lib/*/site-packages")) / "greeting.py"
    package.write_text("import os\nBORN = os.urandom(8).hex()\nCODE = os.path.exists('/code/main.py')\n")

    async def story(connector: DockerConnector) -> None:
        born, early = await run(connector, GREETS, environment)
        assert early is True
        await standing(connector, 1)
        before = containers(api)
        other, early = await run(connector, GREETS + "# another's\n", environment)
        assert (other != born, early) == (True, False), "its packages were imported before its code came"
        await standing(connector, 1)
        assert len(before) == 1
        assert not before & containers(api), "the container was that version's alone, and went with it"

    told(tmp_path, story)


def test_what_nobody_needs_any_more_goes(tmp_path: Path, api: docker.APIClient) -> None:
    async def story(connector: DockerConnector) -> None:
        sandboxes = [await opened(connector, SAME, name) for name in ("a", "b")]
        await standing(connector, 2)
        own = {container_of(sandbox) for sandbox in sandboxes}
        assert len(containers(api) - own) == 2
        connector.release(["a"])
        await standing(connector, 2)
        connector.release(["b"])
        async with asyncio.timeout(20):
            while containers(api) != own:
                await asyncio.sleep(0.05)

    told(tmp_path, story)


def test_one_whose_container_has_died_only_costs_the_haste(tmp_path: Path, api: docker.APIClient) -> None:
    async def story(connector: DockerConnector) -> None:
        assert await run(connector, SAME) == 2
        await standing(connector, 1)
        (ready,) = containers(api)
        os.kill(api.inspect_container(ready)["State"]["Pid"], signal.SIGKILL)
        async with asyncio.timeout(10):
            while ready in containers(api):
                await asyncio.sleep(0.05)
        assert await run(connector, SAME) == 2
        await standing(connector, 1)

    told(tmp_path, story)


def test_what_is_being_made_does_not_hold_up_an_undeploy_and_leaves_nothing(tmp_path: Path) -> None:
    async def story(connector: DockerConnector) -> None:
        assert await run(connector, SAME) == 2

    told(tmp_path, story)
