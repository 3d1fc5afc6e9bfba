"""Runtimes, the pure part: which definitions can be, and what the states of many spots are together."""

from __future__ import annotations

from typing import Any

import pytest

from faaspot_api.domain import runtimes
from faaspot_api.domain.runtimes import NOWHERE, first_wish, problems, stack, together, types_of
from faaspot_runner.contract.runtimes import (
    RUNTIME_TYPES,
    RuntimeDefinition,
    RuntimeState,
    RuntimeType,
    RuntimeWanted,
    Wanted,
)

TYPES = {"box": RuntimeType(), "tent": RuntimeType(stands_on=("box", "tent"))}


def made(name: str, kind: str = "sandbox", **more: Any) -> RuntimeDefinition:
    return RuntimeDefinition(name=name, type=kind, **more)


def fields(definition: RuntimeDefinition, *before: RuntimeDefinition) -> list[str]:
    return [problem.field for problem in problems(definition, {each.name: each for each in before})]


@pytest.mark.parametrize(
    "definition",
    [
        made("strict"),
        made("big", "docker", config={"image": "registry.example.org:5000/team/base@sha256:ab", "memory": "512"}),
        made("versions", "docker", config={"image": "python:{python}-slim", "pull": "never", "cpus": "0.5"}),
        made("theirs", "docker", external=True, config={"container": "web_1"}),
        made("gvisor", "docker", config={"oci_runtime": "runsc"}, lazy=False),
    ],
)
def test_what_can_be_has_no_problem(definition: RuntimeDefinition) -> None:
    assert problems(definition, {}) == ()


@pytest.mark.parametrize(
    ("definition", "field"),
    [
        (made("-rf"), "name"),
        (made("x", "moon"), "type"),
        (made("x", config={"image": "a"}), "config.image"),
        (made("x", "docker", config={"image": 5}), "config.image"),
        (made("x", "docker", config={"image": "--privileged"}), "config.image"),
        (made("x", "docker", config={"image": "a\n"}), "config.image"),
        (made("x", "docker", config={"network": "host"}), "config.network"),
        (made("x", "docker", config={"image": "a{user}"}), "config.image"),
        (made("x", "docker", config={"memory": "1G"}), "config.memory"),
        (made("x", "docker", config={"container": "theirs"}), "config.container"),
        (made("x", "docker", external=True), "config.container"),
        (made("x", external=True), "external"),
        (made("x", "process", wraps="sandbox"), "wraps"),
    ],
)
def test_what_cannot_be_is_named_by_its_field(definition: RuntimeDefinition, field: str) -> None:
    assert fields(definition) == [field]


def test_every_bad_field_is_named_at_once() -> None:
    assert fields(made("a b", "docker", config={"x": "1", "image": ""}, external=True, wraps="y")) == [
        "name", "config.x", "config.image", "config.container", "wraps",
    ]  # fmt: skip


@pytest.fixture
def wrapping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types of which one may stand on another, and on itself."""
    monkeypatch.setattr(runtimes, "RUNTIME_TYPES", TYPES)
    monkeypatch.setattr(runtimes, "BUILT_IN", {name: made(name, name) for name in TYPES})


@pytest.mark.usefixtures("wrapping")
def test_a_wrap_needs_one_that_is_there_of_a_type_to_stand_on() -> None:
    inner = made("inner", "box")
    assert fields(made("outer", "tent", wraps="inner"), inner) == []
    assert fields(made("outer", "tent", wraps="box")) == []
    assert fields(made("outer", "tent", wraps="nowhere"), inner) == ["wraps"]
    assert fields(made("outer", "box", wraps="inner"), inner) == ["wraps"]


@pytest.mark.usefixtures("wrapping")
def test_no_definition_closes_a_circle() -> None:
    assert fields(made("a", "tent", wraps="a")) == ["wraps"]
    b = made("b", "tent", wraps="a")
    assert fields(made("a", "tent", wraps="b"), b) == ["wraps"]
    assert fields(made("c", "tent", wraps="b"), b, made("a", "tent", wraps="b")) == [], "an older circle is not its own"


@pytest.mark.usefixtures("wrapping")
def test_a_stack_is_all_that_it_rests_on() -> None:
    known = {each.name: each for each in (made("a", "tent", wraps="b"), made("b", "tent", wraps="box"))}
    assert [each.name for each in stack("a", known)] == ["a", "b"]
    assert types_of("a", known) == {"tent", "box"}
    assert types_of("box", known) == {"box"}


def test_a_lazy_one_is_in_service_at_once_another_waits_to_be_deployed() -> None:
    assert (first_wish(made("x")), first_wish(made("x", lazy=False))) == ("known", "down")


# ---------------------------------------------------------------- many spots


def wish(wanted: Wanted, asked: int = 7) -> RuntimeWanted:
    return RuntimeWanted(definition=made("x"), wanted=wanted, asked=asked)


def said(status: Any, asked: int = 7, error: str | None = None) -> RuntimeState:
    return RuntimeState(status=status, asked=asked, error=error)


@pytest.mark.parametrize(
    ("wanted", "states", "status"),
    [
        ("up", [said("deployed"), said("deployed")], "deployed"),
        ("up", [said("deployed"), said("deploying")], "deploying"),
        ("up", [said("deployed"), said("undeployed", asked=3)], "deploying"),
        ("up", [said("deployed"), None], "deploying"),
        ("up", [said("deploying"), said("failed", error="no disk")], "failed"),
        ("up", [said("failed", asked=3, error="old")], "deploying"),
        ("down", [said("undeployed"), said("undeployed")], "undeployed"),
        ("down", [said("undeployed"), said("deployed", asked=3)], "undeploying"),
        ("down", [None], "undeployed"),
        ("down", [said("undeploying"), said("undeployed")], "undeploying"),
        ("known", [said("undeployed"), said("deployed")], "deployed"),
        ("known", [None], "undeployed"),
    ],
)
def test_many_states_are_one(wanted: Wanted, states: list[RuntimeState | None], status: str) -> None:
    seen = [(f"127.0.0.{number}", state) for number, state in enumerate(states, 1)]
    assert together(wish(wanted), seen).status == status


def test_a_failure_tells_which_spot_it_is_of() -> None:
    seen = [("127.0.0.1", said("deployed")), ("127.0.0.2", said("failed", error="no disk"))]
    assert together(wish("up"), seen).error == "127.0.0.2: no disk"


def test_a_built_in_one_is_as_the_spots_say_and_nowhere_without_one() -> None:
    assert together(None, [("127.0.0.1", RuntimeState(status="deployed"))]).status == "deployed"
    nowhere = together(None, [])
    assert (nowhere.status, nowhere.error) == ("undeployed", NOWHERE)


def test_the_types_have_no_key_of_another_meaning() -> None:
    assert {name for name, each in RUNTIME_TYPES.items() if each.external is not None} == {"docker"}
    assert all(set(each.external or ()) <= set(each.config) for each in RUNTIME_TYPES.values())
    assert all(inner in RUNTIME_TYPES for each in RUNTIME_TYPES.values() for inner in each.stands_on)
