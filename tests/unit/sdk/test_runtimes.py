"""Runtimes: the same conversation in both clients, and a wait that ends as was asked or says why not."""

from __future__ import annotations

import asyncio

import pytest

from faaspot import AsyncFaaspot, Faaspot, NotFound, Runtime, WaitTimeout
from faaspot.errors import Busy, Exists, Invalid, RuntimeUnavailable
from faaspot.runtimes import _move
from tests.unit.sdk.played import Played, answer
from tests.unit.sdk.served import Served


def test_the_whole_life_of_a_runtime(faaspot: Faaspot) -> None:
    runtimes = faaspot.runtimes
    made = runtimes.create("strict", "sandbox", lazy=False)
    assert (made.name, made.type, made.lazy, made["status"]) == ("strict", "sandbox", False, "undeployed")
    assert [each.name for each in runtimes.list()] == ["sandbox", "strict"]
    assert runtimes.deploy("strict").status == "deploying"
    assert runtimes.deploy("strict", wait=True).status == "deployed"
    assert runtimes.undeploy("strict", wait=True).status == "undeployed"
    assert runtimes.get("strict").users == []
    assert runtimes.delete("strict") == {"name": "strict"}
    with pytest.raises(NotFound):
        runtimes.get("strict")


def test_the_same_on_asyncio(platform: Served) -> None:
    async def talk() -> None:
        async with AsyncFaaspot(host=platform.url, token=platform.token) as faaspot:
            runtimes = faaspot.runtimes
            made = await runtimes.create("big", "docker", {"image": "debian:12"})
            assert (made.config, made.external) == ({"image": "debian:12"}, False)
            assert len(await runtimes.list()) == 2
            assert (await runtimes.deploy("big", wait=True)).status == "deployed"
            assert (await runtimes.undeploy("big")).status == "undeploying"
            assert isinstance(await runtimes.get("big"), Runtime)
            await runtimes.delete("big")

    asyncio.run(talk())


def test_refusals_are_errors_of_their_own(faaspot: Faaspot) -> None:
    with pytest.raises(Invalid) as caught:
        faaspot.runtimes.create("x", "moon", {"a": "b"})
    assert [each.field for each in caught.value.errors] == ["type"]
    faaspot.runtimes.create("x", "sandbox")
    with pytest.raises(Exists):
        faaspot.runtimes.create("x", "sandbox")
    with pytest.raises(Busy):
        faaspot.runtimes.undeploy("sandbox")


def test_a_wait_for_one_that_fails_says_why(faaspot: Faaspot) -> None:
    faaspot.runtimes.create("bad", "docker", {"image": "broken"})
    with pytest.raises(RuntimeUnavailable, match=r"is failed: 127\.0\.0\.1: no such image"):
        faaspot.runtimes.deploy("bad", wait=True)


def test_a_wait_looks_again_until_its_time_is_up() -> None:
    on_its_way = answer(200, {"name": "x", "status": "deploying", "error": None})
    with pytest.raises(WaitTimeout, match="not deployed within 0 s"):
        Played(_move("x", "deploy", "deployed", True, 0.0), on_its_way, on_its_way)
