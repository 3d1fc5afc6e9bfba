"""Spots over the platform's own HTTP side."""

from __future__ import annotations

import asyncio

import pytest

from faaspot import AsyncFaaspot, Execution, Faaspot, NotFound, spots
from faaspot.errors import ConnectionFailed
from tests.unit.sdk.played import Played
from tests.unit.sdk.served import Served


def test_spots_are_added_shown_and_removed(faaspot: Faaspot) -> None:
    added = faaspot.spots.add(wait=True)

    assert isinstance(added, Execution)
    assert added.output == "127.0.0.2"
    assert [each.ip for each in faaspot.spots.list()] == ["127.0.0.1", "127.0.0.2"]
    assert faaspot.nodes.get("127.0.0.2").status == "online"
    assert isinstance(faaspot.spots.remove("127.0.0.2"), str)
    faaspot.spots.remove(wait=True)
    assert faaspot.spots.list() == []
    with pytest.raises(NotFound):
        faaspot.spots.get("127.0.0.1")


def test_numbers_of_workers_are_numbers(faaspot: Faaspot, platform: Served) -> None:
    said = faaspot.spots.update(2, 10)
    assert (said["min_workers"], said["max_workers"], said["applied"]) == (2, 10, True)
    assert platform.services.state.calls[-1] == ("update_spots", (2, 10))


def test_refresh_and_replace(faaspot: Faaspot) -> None:
    assert isinstance(faaspot.spots.refresh_ip("127.0.0.1"), str)
    assert isinstance(faaspot.spots.refresh_ip(wait=True), Execution)
    assert isinstance(faaspot.spots.replace("127.0.0.1"), str)
    assert isinstance(faaspot.spots.replace("127.0.0.1", wait=True), Execution)


def test_the_get_that_acts_is_not_sent_twice() -> None:
    with pytest.raises(ConnectionFailed):
        Played(spots._task(spots._replace("127.0.0.1"), False), ConnectionFailed("lost"))


def test_a_zone_is_sent_where_one_is_given(faaspot: Faaspot) -> None:
    assert isinstance(faaspot.spots.add(availability_zone="b"), str)


def test_the_async_client_does_all_of_it(platform: Served) -> None:
    async def talk() -> int:
        async with AsyncFaaspot(host=platform.url, token=platform.token) as faaspot:
            await faaspot.spots.add(wait=True)
            assert (await faaspot.nodes.get("127.0.0.2")).ip == "127.0.0.2"
            await faaspot.spots.update(1, 2)
            await faaspot.spots.refresh_ip()
            await faaspot.spots.replace("127.0.0.1")
            await faaspot.spots.remove("127.0.0.2")
            return len(await faaspot.spots.list())

    assert asyncio.run(talk()) == 1
