"""The public face: its names, its two forms that must not drift apart, and what opening one costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

import faaspot as library
from faaspot import AsyncFaaspot, Faaspot, NotFound
from faaspot.errors import NoProfile
from tests.unit.sdk.served import Served

RESOURCES = ("deployments", "executions", "spots", "runtimes", "tokens", "health")


def test_the_public_names_are_these() -> None:
    assert sorted(library.__all__) == [
        "ApiError", "AsyncFaaspot", "Callback", "ConfigError", "ConnectionFailed", "Deployment", "Execution", "Faaspot",
        "FaaspotError", "NotFound", "Profile", "Profiles", "Rerun", "RunError", "Runtime", "Spot", "Token", "Version",
        "WaitTimeout",
    ]  # fmt: skip
    assert all(hasattr(library, name) for name in library.__all__)


def methods(resource: object) -> dict[str, Any]:
    found = {name: getattr(type(resource), name) for name in dir(resource) if not name.startswith("_")}
    return {name: each for name, each in found.items() if callable(each)}


@pytest.mark.parametrize("resource", RESOURCES)
def test_both_clients_have_the_same_methods_with_the_same_parameters(resource: str) -> None:
    blocking, awaited = methods(getattr(Faaspot(), resource)), methods(getattr(AsyncFaaspot(), resource))

    assert set(blocking) == set(awaited)
    for name, method in blocking.items():
        theirs = inspect.signature(awaited[name]).parameters
        ours = inspect.signature(method).parameters
        assert list(ours) == list(theirs), f"{resource}.{name}"
        assert [each.default for each in ours.values()] == [each.default for each in theirs.values()]
        assert [each.kind for each in ours.values()] == [each.kind for each in theirs.values()]


@pytest.mark.parametrize("resource", RESOURCES)
def test_every_public_method_says_what_it_does(resource: str) -> None:
    for client in (Faaspot(), AsyncFaaspot()):
        for name, method in methods(getattr(client, resource)).items():
            assert inspect.getdoc(method), f"{resource}.{name}"


def test_the_words_of_the_later_clients_are_aliases() -> None:
    faaspot = Faaspot()

    assert faaspot.functions is faaspot.deployments
    assert faaspot.nodes is faaspot.spots
    assert faaspot.executions() is faaspot.executions


def test_making_a_client_asks_for_nothing_until_it_is_used() -> None:
    faaspot = Faaspot()

    with pytest.raises(NoProfile):
        faaspot.deployments.list()
    faaspot.profiles.create("mine", token="t")
    assert faaspot.profiles.current() == "mine"


def test_importing_the_library_loads_no_http_library() -> None:
    program = "import sys, faaspot; print([m for m in ('httpx2', 'yaml', 'asyncio', 'rich') if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_the_current_profile_is_where_a_client_goes(platform: Served) -> None:
    Faaspot().profiles.create("here", host=platform.url, token=platform.token)

    with Faaspot() as faaspot:
        assert faaspot.deployments.list() == []
        with pytest.raises(NotFound):
            faaspot.deployments.get("nothing")
