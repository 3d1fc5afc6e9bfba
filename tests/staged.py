"""Connectors that write down when they begin and end, and wait for the test to let them go on."""

from __future__ import annotations

import asyncio

from faaspot_runner.connectors.base import Connector, DeploymentConfig, Request
from faaspot_runner.sandbox.outcome import Outcome


class Boom(Exception):
    """What a fake connector raises."""


class Stage:
    """What the fakes did, which of them wait, and which of them fail."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.made: list[FakeConnector] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.failing: set[str] = set()
        self.busy: set[str] = set()
        self._changed = asyncio.Condition()

    def hold(self, action: str) -> asyncio.Event:
        """Have `action` ("deploy a") wait until the event is set."""
        gate = self.gates[action] = asyncio.Event()
        return gate

    async def act(self, action: str) -> None:
        await self._write(f"{action} begins")
        if action in self.gates:
            await self.gates[action].wait()
        if action in self.failing:
            await self._write(f"{action} fails")
            raise Boom(action)
        await self._write(f"{action} ends")

    async def _write(self, line: str) -> None:
        async with self._changed:
            self.log.append(line)
            self._changed.notify_all()

    async def saw(self, line: str) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: line in self.log)

    def count(self, line: str) -> int:
        return self.log.count(line)

    def before(self, first: str, second: str) -> bool:
        return self.log.index(first) < self.log.index(second)


class FakeConnector(Connector):
    stage: Stage

    def __init__(self, config: DeploymentConfig, inner: Connector | None = None) -> None:
        super().__init__(config, inner)
        self.external: list[bool] = []
        self.stage.made.append(self)

    async def deploy(self, external: bool) -> None:
        self.external.append(external)
        await self.stage.act(f"deploy {self.config.name}")

    async def undeploy(self, external: bool) -> None:
        self.external.append(external)
        await self.stage.act(f"undeploy {self.config.name}")

    async def forget(self, environment: str) -> bool:
        await self.stage.act(f"forget {environment} in {self.config.name}")
        return self.config.name not in self.stage.busy

    async def run(self, request: Request) -> Outcome:
        await self.stage.act(f"run {self.config.name}")
        return Outcome(status="Success", output=f'"{self.config.name}"')


class FakeWrapper(FakeConnector):
    can_wrap = True
