"""The tree of errors: every code of the wire has a class, and the classes say what happened."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import get_args

import pytest

from faaspot import errors
from faaspot_api import errors as api_errors
from faaspot_runner.contract import Reason

WIRE_CODES = {
    "invalid", "network_unavailable", "runtime_unavailable", "unauthorized", "forbidden", "not_found", "exists",
    "deployment_not_ready", "deployment_disabled", "already_ended", "busy", "cancelled", "too_large",
    "idempotency_mismatch", "overloaded", "internal", "queue_unavailable", "no_spot", "worker_lost", "storage_full",
    "timeout", "wait_timeout", "restarting",
}  # fmt: skip


def subclasses(of: type) -> set[type]:
    return {each for kind in of.__subclasses__() for each in (kind, *subclasses(kind))}


def test_every_error_code_of_the_wire_has_a_class() -> None:
    assert set(errors.BY_CODE) >= WIRE_CODES


def test_every_default_code_of_the_api_has_a_class() -> None:
    codes = {kind.default_code for kind in (api_errors.ApiError, *subclasses(api_errors.ApiError))}

    assert codes <= set(errors.BY_CODE)


def test_every_code_that_the_api_raises_has_a_class() -> None:
    sources = Path(api_errors.__file__).parent.rglob("*.py")
    said = {code for path in sources for code in re.findall(r"\bcode=\"([a-z_]+)\"", path.read_text())}

    assert said
    assert said <= set(errors.BY_CODE)


def test_every_reason_of_an_execution_has_a_run_error() -> None:
    for reason in get_args(Reason):
        assert issubclass(errors.BY_CODE[reason], errors.RunError), reason


def test_every_class_stands_in_the_tree_of_the_docstring() -> None:
    drawn = errors.__doc__ or ""

    for kind in subclasses(errors.FaaspotError):
        assert kind.__name__ in drawn, f"{kind.__name__} is not drawn"


def test_the_texts_that_programs_look_for_are_those_of_the_published_clients() -> None:
    assert str(errors.MissingFile("x.py")) == "Missing file in path: x.py"
    assert str(errors.NoProfile()) == "FaaSpot profile was not set. Create a profile using profiles command."
    assert str(errors.ConnectionFailed("x")).startswith("Failed to connect to FaaSpot server. ")


def test_a_missing_file_is_also_pythons_own_error() -> None:
    with pytest.raises(FileNotFoundError):
        raise errors.MissingFile("x.py")


def test_an_error_survives_the_way_between_processes() -> None:
    error = errors.BuildFailed("no", status=None, error_code="build_failed", execution_id="u", traceback="trace")

    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), copy.message, copy.reason, copy.traceback) == (
        errors.BuildFailed,
        "no",
        "build_failed",
        "trace",
    )
