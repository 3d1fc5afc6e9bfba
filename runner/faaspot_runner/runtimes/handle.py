"""What the manager gives out in place of a connector: it comes up at its first use and is worthless after its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from faaspot_runner.connectors.base import Connector, DeploymentConfig, Log, Request, Sandbox
from faaspot_runner.contract import SandboxSpec
from faaspot_runner.errors import DeploymentError
from faaspot_runner.sandbox.outcome import Outcome
from faaspot_runner.sandbox.spec import Interpreter, Material


class Handle(Connector):
    """A connector that asks for the real one at each use.

    The manager's callback brings a lazy runtime up, and raises DeploymentError once it was undeployed. Its life is the
    manager's alone: `deploy` only makes the first use happen now, `undeploy` is refused.
    """

    def __init__(
        self,
        config: DeploymentConfig,
        use: Callable[[], Awaitable[Connector]],
        there: Callable[[], Connector | None],
    ) -> None:
        """`there`: the real one if it is up."""
        super().__init__(config, None)
        self._use = use
        self._there = there

    async def deploy(self, external: bool) -> None:
        await self._use()

    async def undeploy(self, external: bool) -> None:
        raise DeploymentError(self.config.name, "Ask the manager to undeploy a runtime, not its connector.")

    async def open(self, spec: SandboxSpec, material: Material, deadline: float) -> Sandbox:
        return await (await self._use()).open(spec, material, deadline)

    async def interpreter(self, python: Interpreter, log: Log) -> Interpreter:
        return await (await self._use()).interpreter(python, log)

    async def keep(self, python: Interpreter, environment: Path | None, log: Log) -> None:
        await (await self._use()).keep(python, environment, log)

    async def forget(self, environment: str) -> bool:
        return await (await self._use()).forget(environment)

    def release(self, version_ids: Collection[str]) -> None:
        if (connector := self._there()) is not None:
            connector.release(version_ids)

    @property
    def environments(self) -> frozenset[str]:
        connector = self._there()
        return connector.environments if connector is not None else frozenset()

    async def run(self, request: Request) -> Outcome:
        return await (await self._use()).run(request)
