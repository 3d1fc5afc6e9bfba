"""`network: internet` of a container, against the small world of `network_world`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faaspot_runner.connectors import CONNECTORS
from faaspot_runner.connectors.base import DeploymentConfig, Request
from faaspot_runner.contract import Limits, SandboxSpec
from faaspot_runner.runtimes.manager import DefaultDeploymentManager
from faaspot_runner.sandbox import firewall
from faaspot_runner.sandbox.network import Egress
from faaspot_runner.sandbox.outcome import Outcome
from faaspot_runner.sandbox.spec import Material
from tests import docker_engine
from tests.unit.runner.network_world import FAR, PORT, RESOLVER, World
from tests.unit.runner.sandbox_driver import interpreter

pytestmark = pytest.mark.root


CODE = """
import socket
def main(args, context):
    reached = []
    for address in args["addresses"]:
        with socket.socket() as made:
            made.settimeout(1.5)
            if made.connect_ex((address, args["port"])) == 0:
                reached.append(address)
    return [reached, open("/etc/resolv.conf").read().split()[1], [name for _, name in socket.if_nameindex()]]
"""
WALLED = DeploymentConfig(name="walled", type="sandbox", wraps="docker", config={}, lazy=False)


@pytest.fixture
def egress(world: World, tool: firewall.Firewall) -> Iterator[Egress]:
    docker_engine.needed()
    made = Egress.open("unit")
    yield made
    made.close()
    assert docker_engine.objects() == []


def seen(egress: Egress, directory: Path, outermost: str, listed: tuple[str, ...] | None) -> Any:
    """What a function in a container finds that it can reach."""
    below = DeploymentConfig(
        name="docker", type="docker", config=docker_engine.connector_config(directory, egress=egress), lazy=False
    )

    async def story() -> Outcome:
        manager = DefaultDeploymentManager(CONNECTORS, {"docker": below})
        await manager.deploy({"docker": below, "walled": WALLED}[outermost])
        connector = manager.get_connector(outermost)
        assert connector is not None
        try:
            spec = SandboxSpec(
                version_id="v", deployment="d", version=1, runtime=outermost, python="3.11", code="0",
                limits=Limits(timeout=60, network="internet", egress=listed),
            )  # fmt: skip
            material = Material(code=CODE.encode(), python=interpreter("/usr/bin/python3"))
            args = json.dumps({"addresses": [*FAR, "5.5.5.5", "10.77.0.1", "10.77.0.2"], "port": PORT})
            return await connector.run(Request(execution_id="e", spec=spec, material=material, args=args))
        finally:
            await manager.close()

    outcome = asyncio.run(story())
    assert outcome.status == "Success", outcome
    return json.loads(outcome.output or "")


@pytest.mark.parametrize("runtime", ["docker", "walled"])
def test_a_function_in_a_container_reaches_public_addresses_only(egress: Egress, tmp_path: Path, runtime: str) -> None:
    assert seen(egress, tmp_path, runtime, None) == [["9.9.9.9", "8.8.4.4"], RESOLVER, ["lo", "eth0"]]


@pytest.mark.parametrize("runtime", ["docker", "walled"])
def test_a_function_in_a_container_is_held_to_its_allow_list(egress: Egress, tmp_path: Path, runtime: str) -> None:
    listed = (f"9.9.9.9:{PORT}", f"10.77.0.1:{PORT}")
    assert seen(egress, tmp_path, runtime, listed) == [["9.9.9.9"], "127.0.0.1", ["lo", "eth0"]]
