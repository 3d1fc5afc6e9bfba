"""Tokens over the platform's own HTTP side."""

from __future__ import annotations

import asyncio

import pytest

from faaspot import AsyncFaaspot, Faaspot
from faaspot.errors import Exists, Forbidden, Unauthorized
from tests.unit.sdk.served import Served


def test_a_token_is_made_used_and_revoked(faaspot: Faaspot, platform: Served) -> None:
    made = faaspot.tokens.create("ci", "invoker", ["127.0.0.1"])

    assert (made.name, made.role, made.spots) == ("ci", "invoker", ["127.0.0.1"])
    assert [each.name for each in faaspot.tokens.list()] == ["admin", "ci"]
    with Faaspot(host=platform.url, token=made.token) as theirs:
        assert theirs.deployments.list() == []
        with pytest.raises(Forbidden):
            theirs.tokens.list()
        faaspot.tokens.revoke("ci")
        with pytest.raises(Unauthorized):
            theirs.deployments.list()
    faaspot.tokens.create("x")
    with pytest.raises(Exists):
        faaspot.tokens.create("x")


def test_user_and_password_are_an_identity_too(platform: Served) -> None:
    faaspot = Faaspot()
    faaspot.profiles.create("basic", host=platform.url, username="admin", password=platform.token)

    assert [each.name for each in faaspot.tokens.list()] == ["admin"]
    faaspot.close()


def test_the_async_client_does_all_of_it(platform: Served) -> None:
    async def talk() -> list[str]:
        async with AsyncFaaspot(host=platform.url, token=platform.token) as faaspot:
            await faaspot.tokens.create("a")
            await faaspot.tokens.create("b")
            await faaspot.tokens.revoke("a")
            return [each.name for each in await faaspot.tokens.list()]

    assert asyncio.run(talk()) == ["admin", "b"]
