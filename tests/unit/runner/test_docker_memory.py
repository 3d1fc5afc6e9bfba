"""The memory of imports in one container where no cgroup of ours counts it: none takes what is the others'."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from faaspot_runner.errors import SandboxError
from tests.unit.runner.test_docker_connector import WALLED, _nothing_is_left, opened, stack

__all__ = ["_nothing_is_left"]

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

HOARD = """
import os, time
for _ in range(16):
    if os.fork() == 0:
        held = bytearray(60 << 20)
        held[::4096] = bytes(len(held[::4096]))
        time.sleep(600)
time.sleep(10)
def main(args, context):
    return 1
"""


def test_an_import_that_takes_too_much_of_a_container_that_it_shares_fails_alone(tmp_path: Path) -> None:
    async def story() -> None:
        manager = stack(tmp_path)
        await manager.deploy(WALLED)
        connector = manager.get_connector("walled")
        assert connector is not None
        neighbour = await opened(connector)
        with pytest.raises(SandboxError, match="what the function's import started took more memory") as caught:
            await opened(connector, HOARD, "hoard")
        assert caught.value.reason == "oom"
        assert neighbour.alive()
        await manager.undeploy_all()

    asyncio.run(story())
