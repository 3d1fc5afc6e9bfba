"""`network: internet` of a container, against the small world of `test_network`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from faaspot_runner.connectors.base import DeploymentConfig, Request
from faaspot_runner.connectors.docker import DockerConnector
from faaspot_runner.contract import Limits, SandboxSpec
from faaspot_runner.sandbox.network import Egress
from faaspot_runner.sandbox.run import Outcome
from faaspot_runner.sandbox.spec import Material
from tests import docker_engine
from tests.unit.runner.sandbox_driver import interpreter
from tests.unit.runner.test_network import FAR, PORT, RESOLVER, World, egress, tool, world

__all__ = ["egress", "tool", "world"]
"""Fixtures."""

pytestmark = pytest.mark.root


def test_a_function_in_a_container_reaches_public_addresses_only(
    world: World,
    egress: Egress,
    tmp_path: Path,
) -> None:
    docker_engine.needed()
    code = """
import socket
def main(args, context):
    reached = []
    for address in args["addresses"]:
        with socket.socket() as made:
            made.settimeout(0.4)
            if made.connect_ex((address, args["port"])) == 0:
                reached.append(address)
    return [reached, open("/etc/resolv.conf").read().split()[1], [name for _, name in socket.if_nameindex()]]
"""
    config = docker_engine.connector_config(tmp_path, egress=egress)

    async def story() -> Outcome:
        connector = DockerConnector(DeploymentConfig(name="docker", type="docker", config=config))
        await connector.deploy(False)
        try:
            spec = SandboxSpec(
                version_id="v", deployment="d", version=1, runtime="docker", python="3.11", code="0",
                limits=Limits(timeout=60, network="internet"),
            )  # fmt: skip
            material = Material(code=code.encode(), python=interpreter("/usr/bin/python3"))
            args = json.dumps({"addresses": [*FAR, "5.5.5.5", "10.77.0.1", "10.77.0.2"], "port": PORT})
            return await connector.run(Request(execution_id="e", spec=spec, material=material, args=args))
        finally:
            await connector.undeploy(False)

    outcome = asyncio.run(story())
    assert outcome.status == "Success", outcome
    assert json.loads(outcome.output or "") == [["9.9.9.9", "8.8.4.4"], RESOLVER, ["lo", "eth0"]]
    assert docker_engine.objects() == []
