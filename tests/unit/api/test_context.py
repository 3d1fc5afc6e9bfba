"""Reading contexts: lines, JSON, dicts; errors that name lines and keys, never values."""

from __future__ import annotations

import time

import pytest

from faaspot_api.domain import context
from faaspot_api.errors import Invalid, TooLarge
from faaspot_runner.contract import MAX_CONTEXT_BYTES

SECRET = "hunter2-secret"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("\n\n# only a comment\n", {}),
        ('key = "value"', {"key": "value"}),
        ("KEY=Value", {"KEY": "Value"}),
        ("export KEY=Value", {"KEY": "Value"}),
        ("a = 'single # no comment'  # comment", {"a": "single # no comment"}),
        ('a = "two\\nlines"\nb = plain text # comment', {"a": "two\nlines", "b": "plain text"}),
        ("a=\r\nb=2\r\n", {"a": "", "b": "2"}),
        ("a = x=y", {"a": "x=y"}),
        ("\ufeffa=1", {"a": "1"}),
        ("a = \u00e4\u20ac", {"a": "\u00e4\u20ac"}),
        ('{"a": 1, "b": {"c": [true, null]}}', {"a": 1, "b": {"c": [True, None]}}),
        ("  {}", {}),
    ],
)
def test_every_form_is_read(text: str, expected: dict[str, object]) -> None:
    assert context.parse(text) == expected


def test_a_dict_is_taken_as_it_is() -> None:
    assert context.parse({"a": [1, {"b": None}]}) == {"a": [1, {"b": None}]}


def test_nothing_of_our_environment_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAASPOT_TEST_SECRET", SECRET)
    assert context.parse("a = ${FAASPOT_TEST_SECRET}\nb = $HOME") == {"a": "${FAASPOT_TEST_SECRET}", "b": "$HOME"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"a = 1\nno equals sign {SECRET}", 2),
        (f"\n\n\n{SECRET}", 4),
        (f'a = "{SECRET}', 1),
        (f"a = '{SECRET}' more", 1),
        (f"a = 1\n\n= {SECRET}", 3),
        (f"a = {SECRET}\nb = 2\na = {SECRET}", 3),
        (f"a = {' ' * 1000}{SECRET}", 1),
        (f'{{"a": "{SECRET}",\n b}}', 2),
    ],
)
def test_an_error_names_the_line_and_never_the_value(text: str, line: int) -> None:
    with pytest.raises(Invalid) as caught:
        context.parse(text)
    (error,) = caught.value.errors
    assert (error.field, error.line) == ("context", line)
    assert SECRET not in str(caught.value)
    assert SECRET not in error.message


@pytest.mark.parametrize(
    "text",
    [
        f'{{"a": "{SECRET}", "a": 2}}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": ' + "[" * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        '{"": 1}',
        f'{{"{"k" * 300}": 1}}',
        "{",
    ],
    ids=["twice", "nan", "infinity", "deep", "digits", "empty key", "long key", "open"],
)
def test_json_that_is_not_strict_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        context.parse(text)
    assert caught.value.errors[0].field == "context"
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": b"x"}, {"a": {1, 2}}, {1: "a"}, {"": 1}])
def test_a_dict_that_json_cannot_hold_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        context.parse(value)


@pytest.mark.parametrize("value", ["a = " + "x" * MAX_CONTEXT_BYTES, {"a": "x" * MAX_CONTEXT_BYTES}])
def test_a_context_past_the_limit_is_too_large(value: str | dict[str, object]) -> None:
    with pytest.raises(TooLarge):
        context.parse(value)


def test_a_hostile_text_takes_no_quadratic_time() -> None:
    started = time.monotonic()
    with pytest.raises(Invalid):
        context.parse("a = b" + " " * 250_000 + "c")
    context.parse(("a" * 50 + " " * 150 + "=" + " " * 150 + "x\n").replace("a", "k", 1))
    assert time.monotonic() - started < 2
