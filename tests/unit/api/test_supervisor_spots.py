"""Requests for local spots, over a real Redis: each is held for as long as it takes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from faaspot_api.queue.requests import SpotRequests
from faaspot_api.supervisor import spots
from faaspot_api.supervisor.directory import DataDirectory
from faaspot_api.supervisor.spots import LocalSpots
from faaspot_runner.contract import LEASE_DONE, SPOTS, SUPERVISOR, SpotRequest, dump, lease_key
from tests.redis_servers import running_redis

REQUEST = SpotRequest(execution_id="one", attempt=1, token="secret", action="remove", ip="127.0.0.1")


class Runner:
    """A spot that drains for as long as its test wants."""

    def __init__(self) -> None:
        self.draining, self.drained = asyncio.Event(), asyncio.Event()

    def start_spot(self, ip: str) -> None:
        """Nothing to start."""

    async def stop_spot(self, ip: str) -> None:
        self.draining.set()
        await self.drained.wait()

    def failure(self, ip: str) -> str | None:
        return None


def test_a_drain_that_outlasts_the_lease_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spots, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(spots, "RENEW_SECONDS", 0.1)
    directory = DataDirectory(path=tmp_path / "data", uid=None)
    directory.path.mkdir()
    with running_redis() as server:
        client, key = server.client(), lease_key("one", 1)
        client.hset(SPOTS, "127.0.0.1", "{}")
        client.rpush(SUPERVISOR, dump(REQUEST))
        requests = SpotRequests(client, pytest.fail)

        async def drain() -> None:
            runner = Runner()
            serving = asyncio.create_task(LocalSpots(directory, 1, requests, runner).serve())
            await asyncio.wait_for(runner.draining.wait(), 20)
            client.pexpire(key, 100)  # it has drained for so long that only this is left
            while client.pttl(key) < 500:
                await asyncio.sleep(0.01)
            assert client.get(key) == b"secret"
            runner.drained.set()
            while client.get(key) != LEASE_DONE.encode():
                await asyncio.sleep(0.01)
            serving.cancel()

        asyncio.run(asyncio.wait_for(drain(), 60))
        client.close()
