"""What is not what it says to be is refused before anybody works with it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from faaspot_runner.contract import (
    MAX_SPOT_BYTES,
    BuildOutcome,
    Error,
    Limits,
    Marks,
    RunEnded,
    RunRequest,
    RunStarted,
    SandboxSpec,
    SpotInfo,
    Timings,
    Usage,
    dump,
    load,
    load_spot,
)
from faaspot_runner.contract.runtimes import RuntimeDefinition, Runtimes, RuntimeState, RuntimeWanted

ENDED = RunEnded(
    execution_id="e-1", attempt=1, token="t", spot="10.0.0.2", at=1.5, status="Failure", reason="error",
    error=Error(type="E", message="m"), timings=Timings(run_ms=2, imports={"a": 1.0}, marks=Marks(taken=1)),
    usage=Usage(cpu_ms=3.0), build=BuildOutcome(lock="l", environment="0" * 32, packages=("a==1",), archive="f" * 64),
)  # fmt: skip
MANY = replace(ENDED, spot=", ".join(f"127.0.0.{number}" for number in range(1, 255)))
STARTED = RunStarted(execution_id="e", attempt=1, token="t", spot="s", at=0)
SPEC = SandboxSpec(
    version_id="v", deployment="d", version=1, runtime="r", python="3.12", code="c", limits=Limits(egress=("a:1",))
)
RUN = RunRequest(execution_id="e", attempt=1, token="t", sandbox=SPEC, expires=1)
SPOT = SpotInfo(
    ip="10.0.0.2", created=1, last_seen=2, status="online", runtimes=("sandbox",), pythons={"3.12": "3.12.1"},
    networks=("none",), limits="cgroup", workers={"sync": 1}, states={"sandbox": RuntimeState(status="deployed")},
)  # fmt: skip
NOW_MICROS = 1_795_000_000_000_000
WANTED = Runtimes(
    revision=NOW_MICROS,
    wanted=(RuntimeWanted(definition=RuntimeDefinition(name="mine", type="docker"), wanted="known", asked=NOW_MICROS),),
)


def changed(text: str, at: str, value: Any) -> str:
    """The JSON text with another value at a dotted place."""
    data = json.loads(text)
    *way, last = at.split(".")
    inner = data
    for name in way:
        inner = inner[name]
    inner[last] = value
    return json.dumps(data)


@pytest.mark.parametrize("message", [ENDED, replace(ENDED, build=None, error=None), STARTED, RUN, MANY, WANTED])
def test_what_was_said_is_read(message: RunEnded | RunStarted | RunRequest | Runtimes) -> None:
    assert load(dump(message)) == message


def test_what_a_spot_says_is_read() -> None:
    assert load_spot(dump(SPOT)) == SPOT


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ("execution_id", {}), ("execution_id", "e\0"), ("execution_id", "\ud800"), ("execution_id", "e" * 65),
        ("attempt", "1"), ("attempt", True), ("attempt", 10**400), ("token", None), ("spot", "\ud800"), ("spot", []),
        ("at", "x"), ("at", float("nan")), ("at", -1), ("at", 1e17), ("status", []), ("status", "Done"),
        ("reason", "because"), ("output", {}), ("error.message", 1), ("error", "text"), ("log", None),
        ("logs_truncated", 1), ("timings.run_ms", "1"), ("timings.run_ms", float("inf")), ("timings.imports.a", "x"),
        ("timings.marks", 3), ("timings.marks.taken", "x"), ("usage.cpu_ms", []), ("build.lock", 1),
        ("build.packages", [1]), ("build.environment", "../../x"), ("build.archive", "/etc/passwd"),
        ("build.archive", "F" * 64), ("kind", []),
    ],
)  # fmt: skip
def test_a_report_with_another_value_is_refused(at: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        load(changed(dump(ENDED), at, value))


@pytest.mark.parametrize(
    ("at", "value"),
    [("sandbox", []), ("sandbox.limits", []), ("sandbox.limits.memory", "1"), ("sandbox.code", None), ("args", {})],
)
def test_a_request_with_another_value_is_refused(at: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        load(changed(dump(RUN), at, value))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ("last_seen", "now"), ("last_seen", 1e300), ("created", None), ("capacity", None), ("running", "1"),
        ("warm", [[]]), ("pythons", []), ("pythons", {"3.12": 3}), ("networks", ["all"]), ("status", "offline"),
        ("states", {"a": {"status": "x"}}), ("workers", {"sync": None}), ("load", "x"),
        ("problems", "x" * MAX_SPOT_BYTES),
    ],
)  # fmt: skip
def test_what_no_spot_says_is_refused(at: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        load_spot(changed(dump(SPOT), at, value))


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]", "1", '{"a":' * 50_000])
def test_what_is_no_object_is_refused(text: str) -> None:
    for read in (load, load_spot):
        with pytest.raises(ValueError, match=r"\w"):
            read(text)
