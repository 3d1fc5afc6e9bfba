"""Whatever text comes as a context: a dict of JSON, or a clear refusal."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from faaspot_api.domain import context
from faaspot_api.errors import FieldError, Invalid

KEYS = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C"), exclude_characters="=#'\"\\"), min_size=1)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\r"))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(VALUES, inner, max_size=3),
    max_leaves=10,
)


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _parsed(text: str) -> tuple[dict[str, Any], tuple[FieldError, ...]]:
    try:
        return context.parse(text), ()
    except Invalid as refusal:
        return {}, refusal.errors


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    found, errors = _parsed(text)
    assert json.loads(context.dump(found)) == found
    assert all(error.field == "context" and error.message for error in errors)


@given(st.dictionaries(KEYS.filter(lambda key: key != "export"), VALUES, max_size=5))
def test_quoted_lines_keep_every_value(values: dict[str, str]) -> None:
    text = "\n".join(f"{key} = {_quoted(value)}" for key, value in values.items())
    if not text.startswith("{"):
        assert context.parse(text) == values


@given(st.dictionaries(VALUES.filter(bool), JSON, max_size=5))
def test_a_json_text_keeps_every_value(values: dict[str, object]) -> None:
    assert context.parse(json.dumps(values)) == values
    assert context.parse(values) == values
