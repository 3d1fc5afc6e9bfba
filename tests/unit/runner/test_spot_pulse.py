"""A spot on another host whose Redis user is gone: it gives up, and one that only finds no server does not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from faaspot_api.queue.users import SpotUsers
from faaspot_runner.contract.spots import spot_user
from faaspot_runner.remote import write_private
from faaspot_runner.settings import Settings
from faaspot_runner.spot import broker, pulse
from faaspot_runner.spot.pulse import Heartbeat
from tests.control_plane import a_spot
from tests.redis_servers import RedisServer, running_redis

IP = "10.0.0.2"


def settings(server: RedisServer, home: Path, password: str, api: str) -> Settings:
    url = server.url.replace("unix://", f"unix://{spot_user(IP)}@")
    write_private(home / "keys" / "redis-password", password.encode())
    return Settings(ip=IP, data_dir=home, redis_url=url, api=api)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "REFUSED_SECONDS", 0.2)
    monkeypatch.setattr(pulse, "SPOT_HEARTBEAT_SECONDS", 0.05)


async def beats(given: Settings, seconds: float) -> Heartbeat:
    """A heart that has beaten for so long, or until it gave up."""
    given.home.mkdir(parents=True)
    client = pulse.connect(given)
    heart = Heartbeat(client, given, lambda created, now: replace(a_spot(IP), created=created, last_seen=now))
    beating = asyncio.create_task(heart.run())
    await asyncio.wait({beating}, timeout=seconds)
    await broker.ended({beating})
    await client.aclose()
    return heart


def test_a_spot_that_was_removed_gives_up(tmp_path: Path) -> None:
    with running_redis() as server, server.client() as own:
        password = SpotUsers(own).admit(IP)
        SpotUsers(own).dismiss(IP)
        assert asyncio.run(beats(settings(server, tmp_path, password, "http://first"), 20)).refused


def test_one_that_is_let_in_or_finds_no_server_goes_on(tmp_path: Path) -> None:
    with running_redis() as server:
        with server.client() as own:
            password = SpotUsers(own).admit(IP)
        remote = settings(server, tmp_path / "remote", password, "http://first")
        assert not asyncio.run(beats(remote, 0.6)).refused
        local = settings(server, tmp_path / "local", "wrong", "")
        assert not asyncio.run(beats(local, 0.6)).refused  # the supervisor sees to it, and to its password
    away = settings(server, tmp_path / "away", password, "http://first")
    assert not asyncio.run(beats(away, 0.6)).refused
