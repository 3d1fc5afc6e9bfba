"""Requests for local spots, over a real Redis: each is held for as long as it takes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from faaspot_api.queue.requests import SpotRequests
from faaspot_api.supervisor import spots
from faaspot_api.supervisor.admission import Admissions
from faaspot_api.supervisor.directory import DataDirectory
from faaspot_api.supervisor.spots import LocalSpots
from faaspot_runner.contract import LEASE_DONE, SPOTS, SUPERVISOR, SpotRequest, dump, lease_key, reply_key
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


class Admitting:
    """Counts who was let in."""

    def __init__(self) -> None:
        self.admitted: list[str] = []

    async def admit(self, ip: str, key: str) -> str:
        self.admitted.append(ip)
        return "sealed"


@pytest.mark.parametrize(("left", "admitted"), [(60.0, ["10.0.0.2"]), (-1.0, [])])
def test_who_does_not_wait_any_more_is_not_let_in(tmp_path: Path, left: float, admitted: list[str]) -> None:
    directory = DataDirectory(path=tmp_path / "data", uid=None)
    directory.path.mkdir()
    request = replace(REQUEST, action="admit", ip="10.0.0.2", key="k", expires=time.time() + left)
    with running_redis() as server:
        client = server.client()
        client.rpush(SUPERVISOR, dump(request))
        admissions = Admitting()

        async def serve() -> None:
            requests = SpotRequests(client, pytest.fail)
            spots = LocalSpots(directory, 1, requests, Runner(), cast(Admissions, admissions))
            serving = asyncio.create_task(spots.serve())
            while not client.exists(reply_key("one")):
                await asyncio.sleep(0.01)
            serving.cancel()

        asyncio.run(asyncio.wait_for(serve(), 60))
        assert admissions.admitted == admitted
        client.close()
