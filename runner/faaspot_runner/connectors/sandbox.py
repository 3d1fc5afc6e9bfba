"""The runtime `sandbox`: namespaces, seccomp, no capabilities; the default."""

from __future__ import annotations

from faaspot_runner.connectors.base import Connector, Sandbox
from faaspot_runner.contract import SandboxSpec
from faaspot_runner.sandbox.spec import Material


class SandboxConnector(Connector):
    """Config keys: `cgroups` (a `Cgroups` or None: the rlimit grade), `egress` (an `Egress` or None: no internet)."""

    async def deploy(self, external: bool) -> None:
        raise NotImplementedError

    async def undeploy(self, external: bool) -> None:
        raise NotImplementedError

    async def open(self, spec: SandboxSpec, material: Material, deadline: float) -> Sandbox:
        raise NotImplementedError
