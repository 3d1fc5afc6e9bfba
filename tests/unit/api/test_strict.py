"""Strict JSON: one meaning, or a refusal that says why."""

from __future__ import annotations

import time

import pytest

from faaspot_api.errors import Invalid
from faaspot_api.http import strict

REFUSED = {
    "not JSON": (b"{not json", "is not JSON: Expecting property name enclosed in double quotes (line 1, column 2)"),
    "empty": (b"", "is not JSON"),
    "BOM": (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "is not UTF-8"),
    "bad UTF-8": (b'{"a": "\xff"}', "is not UTF-8 (byte 7)"),
    "surrogates as UTF-8": (b'"\xed\xa0\x80"', "is not UTF-8"),
    "the same key twice": (b'{"a": 1, "b": 2, "a": 3}', "has the key 'a' twice"),
    "twice, deeper": (b'[{"x": {"k": 1, "k": 1}}]', "has the key 'k' twice"),
    "NaN": (b'{"a": NaN}', "NaN"),
    "Infinity": (b"[Infinity]", "Infinity"),
    "minus Infinity": (b"[-Infinity]", "Infinity"),
    "a float out of range": (b"[1e999]", "too large"),
    "too many digits": (b"[" + b"9" * 5000 + b"]", "too many digits"),
    "nested 100,000": (b"[" * 100_000 + b"]" * 100_000, "nested deeper"),
    "nested objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested deeper"),
    "nested and never closed": (b"[" * 100_000, "nested deeper"),
    "one level too deep": (b"[" * 201 + b"]" * 201, "nested deeper"),
    "side by side, then too deep": (b"[" + b"[[]]," * 1000 + b"[" * 200 + b"]" * 201, "nested deeper"),
    "too deep behind strings": (rb'["[]]", "\"]", "\\", ""' + b"," + b"[" * 200 + b"]" * 201, "nested deeper"),
    "never closed, in a string that never closes": (b"[" + b'"\\' * 100_000 + b"[" * 300, "is not JSON"),
    "mixed, one too deep": (b'[{"":' * 101 + b"0" + b"}]" * 101, "nested deeper"),
    "two values": (b"1 2", "is not JSON"),
    "half a surrogate pair": (rb'{"a": "\ud83d"}', "half of a surrogate pair"),
    "half a pair as a key": (rb'{"\uDC00": 1}', "half of a surrogate pair"),
    "a control character": (b'"a\nb"', "is not JSON"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_text_with_no_single_meaning_is_refused_with_its_reason(kind: str) -> None:
    text, reason = REFUSED[kind]

    with pytest.raises(Invalid) as caught:
        strict.load(text, field="args")

    assert reason in caught.value.message
    assert caught.value.errors[0].field == "args"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"[" * 200 + b"]" * 200, None),
        (b'{"a": "' + b"[" * 100_000 + b'"}', {"a": "[" * 100_000}),
        (rb'{"a": "\"[[[\\"}', {"a": '"[[[\\'}),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        ('"Grüße"'.encode(), "Grüße"),
        (b"[" + b"9" * 4000 + b"]", [10**4000 - 1]),
        (b"[-0.0, 1e300, 1E-999]", [-0.0, 1e300, 0.0]),
    ],
    ids=["200 levels", "brackets in a string", "escapes", "a whole pair", "UTF-8", "4000 digits", "floats"],
)
def test_strict_json_is_taken(text: bytes, value: object) -> None:
    found = strict.load(text)

    assert value is None or found == value


def test_many_brackets_side_by_side_are_not_deep() -> None:
    found = strict.load(b"[" + b",".join([b'{"a": [1]}'] * 50_000) + b"]")

    assert len(found) == 50_000


MANY = 8_000_000
SLOW = {
    "groups": b"[" + b",".join([b"[" * 199 + b"]" * 199] * (MANY // 400)) + b"]",
    "small groups": b"[" + b"[[]]," * (MANY // 5) + b"[]]",
    "strings": b"[" + b'"[",' * (MANY // 4) + b"[]]",
    "escapes": b'["' + b'\\"[' * (MANY // 3) + b'"]',
}


@pytest.mark.parametrize("kind", SLOW)
def test_eight_megabytes_of_brackets_are_looked_through_at_once(kind: str) -> None:
    begun = time.process_time()

    assert not strict._too_deep(SLOW[kind])

    assert time.process_time() - begun < 1.0  # 0.2 s; what looked at each level alone took ten


def test_quotes_that_never_close_are_refused_at_once() -> None:
    begun = time.process_time()

    with pytest.raises(Invalid, match="is not JSON"):
        strict.load(b"[" + b"[]," * 201 + b'"\\' * (MANY // 2))

    assert time.process_time() - begun < 1.0


def test_dump_is_compact_and_keeps_characters() -> None:
    assert strict.dump({"ü": [1, None, "€"]}) == '{"ü":[1,null,"€"]}'
