"""Records are dicts with typed attributes."""

from __future__ import annotations

import json

import pytest

from faaspot.types import Deployment, Execution, Field

RECORD = {
    "uuid": "u", "status": "Failure", "reason": "error", "timings": {"total_ms": 1.5}, "usage": None,
    "error": {"type": "KeyError", "message": "'a'", "traceback": None}, "from_the_future": 1,
}  # fmt: skip


def test_a_record_is_the_dict_that_came() -> None:
    execution = Execution(RECORD)

    assert execution == RECORD
    assert execution["status"] == "Failure"
    assert execution.get("spot") is None
    assert "from_the_future" in execution
    assert json.loads(json.dumps(execution)) == RECORD


def test_known_fields_are_attributes_and_nested_records_too() -> None:
    execution = Execution(RECORD)

    assert (execution.status, execution.reason, execution.has_ended) == ("Failure", "error", True)
    assert execution.timings.total_ms == 1.5
    assert execution.error.type == "KeyError"
    assert execution.usage == {}


def test_a_field_that_was_not_sent_is_named() -> None:
    with pytest.raises(AttributeError, match="sent no 'lock' in this Deployment"):
        _ = Deployment({}).lock


def test_attributes_cannot_be_set_by_mistake() -> None:
    with pytest.raises(AttributeError):
        Execution(RECORD).stauts = "Success"  # type: ignore[attr-defined]


def test_the_class_gives_its_fields_to_documentation() -> None:
    assert isinstance(Execution.status, Field)
    assert repr(Execution({"uuid": "u"})) == "Execution({'uuid': 'u'})"
