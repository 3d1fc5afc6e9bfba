"""Runtimes: the platform does not manage them yet, and says so."""

from __future__ import annotations

import asyncio

import pytest

from faaspot import AsyncFaaspot, Faaspot
from faaspot.errors import Invalid
from tests.unit.sdk.served import Served


def test_the_platforms_refusal_comes_out_as_it_is(faaspot: Faaspot, platform: Served) -> None:
    async def talk() -> None:
        async with AsyncFaaspot(host=platform.url, token=platform.token) as awaited:
            with pytest.raises(Invalid, match="not supported"):
                await awaited.runtimes.list()
            with pytest.raises(Invalid, match="not supported"):
                await awaited.runtimes.get("docker")

    with pytest.raises(Invalid, match="not supported"):
        faaspot.runtimes.list()
    with pytest.raises(Invalid, match="not supported"):
        faaspot.runtimes.get("docker")
    asyncio.run(talk())
