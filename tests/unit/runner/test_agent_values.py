"""What a function may return, and how it is told what it may not."""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faaspot_runner.agent.values import MOST_BITS, Unserialisable, encode

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


class Colour(IntEnum):
    RED = 1


Point = namedtuple("Point", "x y")


@given(json_values)
def test_what_json_can_hold_comes_back_as_it_was(value: Any) -> None:
    assert json.loads(encode(value)) == value


@given(json_values)
def test_a_key_that_is_no_text_is_found_wherever_it_is(value: Any) -> None:
    with pytest.raises(Unserialisable, match="dict key of type int"):
        encode([value, {"deep": ({1: value},)}])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1, (2,)), b"[1,[2]]"), (Point(1, 2), b"[1,2]"), (OrderedDict(b=1, a=2), b'{"b":1,"a":2}'),
        (Colour.RED, b"1"), ("é", '"é"'.encode()), (True, b"true"), ([1.0, 1e300], b"[1.0,1e+300]"),
        (2**MOST_BITS - 1, str(2**MOST_BITS - 1).encode()),
    ],
)  # fmt: skip
def test_kin_of_the_json_types_are_taken_as_them(value: Any, text: bytes) -> None:
    assert encode(value) == text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": [0, b"x"]}, "bytes cannot be JSON at $.a[1]"),
        ({"with space": {"k": {1}}}, 'set cannot be JSON at $["with space"].k'),
        ([[float("nan")]], "float NaN cannot be JSON at $[0][0]"),
        ({"a": 1, None: 2}, "dict key of type NoneType cannot be JSON, keys must be str, at $"),
        ({"\ud800": 1}, "dict key with a lone surrogate cannot be JSON at $"),
        ([2**MOST_BITS], "int of more than 4300 digits cannot be JSON at $[0]"),
        ({"n": [*range(10), -(2**MOST_BITS)]}, "int of more than 4300 digits cannot be JSON at $.n[10]"),
        (object, "type cannot be JSON at $"),
        (json.JSONDecoder(), "json.decoder.JSONDecoder cannot be JSON at $"),
    ],
)
def test_the_type_and_the_place_are_named(value: Any, said: str) -> None:
    with pytest.raises(Unserialisable) as caught:
        encode(value)
    assert str(caught.value) == said


def test_depth_and_circles_are_told_apart() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(Unserialisable, match="nested too deeply"):
        encode(deep)
    circle: dict[str, Any] = {}
    circle["self"] = circle
    with pytest.raises(Unserialisable, match=r"a dict that contains itself cannot be JSON at \$.self"):
        encode(circle)
