"""The runtime `process`: no isolation at all; for development on machines without namespaces."""

from __future__ import annotations

from faaspot_runner.connectors.base import Connector, Sandbox
from faaspot_runner.contract import SandboxSpec
from faaspot_runner.sandbox.spec import Material


class ProcessConnector(Connector):
    """Config keys: `directory` (where it may write the code). The same agent and wires as the sandbox, nothing else."""

    async def deploy(self, external: bool) -> None:
        raise NotImplementedError

    async def undeploy(self, external: bool) -> None:
        raise NotImplementedError

    async def open(self, spec: SandboxSpec, material: Material, deadline: float) -> Sandbox:
        raise NotImplementedError
