"""Control messages on a connection that dies under the spot."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from faaspot_runner.contract import CONTROL, Cancel, dump
from faaspot_runner.settings import Settings
from faaspot_runner.spot import pulse
from faaspot_runner.spot.pulse import Control
from tests.redis_servers import PASSWORD, running_redis


@pytest.mark.timeout(30)
def test_a_connection_that_the_kernel_gives_up_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a cable was pulled for a while. The library then answers at once and for ever that nothing has come."""
    monkeypatch.setenv("FAASPOT_REDIS_PASSWORD", PASSWORD)
    made: list[Any] = []
    heard = asyncio.Event()

    class Watched(redis.asyncio.client.PubSub):
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            made.append(self)

    monkeypatch.setattr(redis.asyncio.client, "PubSub", Watched)

    async def cut(url: str) -> None:
        client = pulse.connect(Settings(data_dir=tmp_path, redis_url=url))
        subscribed = asyncio.Event()
        control = Control(client, lambda _: heard.set(), lambda _: None, lambda _: None, subscribed.set)
        hearing = asyncio.create_task(control.run())
        await subscribed.wait()
        while not made[0].connection._reader._waiter:  # until it waits for a message
            await asyncio.sleep(0.01)
        made[0].connection._reader.set_exception(OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))
        while not heard.is_set():
            await client.publish(CONTROL, dump(Cancel(execution_id="e")))
            await asyncio.sleep(0.01)
        hearing.cancel()
        await asyncio.wait({hearing})
        await client.aclose()

    with running_redis() as server:
        asyncio.run(asyncio.wait_for(cut(server.url), 20))
