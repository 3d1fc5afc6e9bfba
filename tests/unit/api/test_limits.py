"""Ranges and defaults of a deployment's settings."""

from __future__ import annotations

from typing import Any

import pytest

from faaspot_api.domain import limits
from faaspot_api.domain.model import Settings
from faaspot_runner.contract import Limits


def test_nothing_said_is_nothing_wrong() -> None:
    assert limits.check(Settings()) == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", 86_401),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("timeout", True),
        ("timeout", "60"),
        ("memory", 15),
        ("memory", 10**30),
        ("memory", 256.5),
        ("pids", 0),
        ("pids", 40_000),
        ("tmp", 0),
        ("network", "everything"),
        ("description", "x" * 1001),
        ("retries", -1),
        ("retries", 101),
        ("retry_backoff", 3601),
    ],
)
def test_a_value_out_of_its_range_names_the_field(name: str, value: Any) -> None:
    (error,) = limits.check(Settings(**{name: value}))
    assert error.field == name
    assert error.message.startswith("must be")


def test_a_range_is_said_in_the_error() -> None:
    (error,) = limits.check(Settings(memory=1))
    assert error.message == "must be from 16 to 1048576 megabytes"


def test_every_bad_field_is_named_at_once() -> None:
    errors = limits.check(Settings(memory=-1, pids=-1, timeout=-1.0, network="x"))  # type: ignore[arg-type]
    assert {error.field for error in errors} == {"memory", "pids", "timeout", "network"}


def test_the_server_bounds_the_timeout() -> None:
    assert limits.check(Settings(timeout=61.0), max_timeout=60)
    assert not limits.check(Settings(timeout=60.0), max_timeout=60)


def test_defaults_are_those_of_the_contract() -> None:
    filled = limits.filled(Settings(), network="none", python="3.11", runtime="sandbox")
    assert limits.of(filled) == Limits()
    assert None not in (filled.python, filled.runtime, filled.sdist, filled.description)


def test_a_small_memory_leaves_room_beside_tmp() -> None:
    filled = limits.filled(Settings(memory=64), network="none", python="3.11", runtime="sandbox")
    assert filled.tmp == 32


def test_tmp_must_fit_into_the_memory_it_is_kept_in() -> None:
    filled = limits.filled(Settings(memory=64, tmp=65), network="none", python="3.11", runtime="sandbox")
    (error,) = limits.check_filled(filled)
    assert error.field == "tmp"


def test_a_change_keeps_what_it_does_not_say() -> None:
    base = limits.filled(Settings(memory=64), network="none", python="3.11", runtime="sandbox")
    changed = limits.merged(Settings(timeout=5.0, sdist=False), base)
    assert (changed.timeout, changed.memory, changed.python) == (5.0, 64, "3.11")
