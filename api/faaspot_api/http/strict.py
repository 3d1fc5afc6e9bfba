"""JSON as we accept it from outside: one meaning, or a 400 that says what is wrong and where.

Python's own decoder takes duplicate keys, ``NaN``, ``1e999`` and nesting until the stack ends; a function would then
see another value than the caller wrote. All of that is refused here, once, for every body, query and form.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

from faaspot_api.errors import FieldError, Invalid

MAX_DEPTH = 200
"""Levels of nesting. Far below Python's recursion limit, so that no later reader of the same text runs into it."""

_BOM = b"\xef\xbb\xbf"
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_PAIR = re.compile(rb"\[\]|\{\}")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def refuse(message: str, *, field: str = "body") -> NoReturn:
    """Raise the `Invalid` that names one field."""
    raise Invalid.fields(FieldError(field=field, message=message))


def load(data: bytes | str, *, field: str = "body") -> Any:
    """The value of strict JSON text. Raises Invalid, which names `field`, for anything else."""
    raw = data.encode() if isinstance(data, str) else data
    text = data if isinstance(data, str) else _text(raw, field)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _too_deep(raw):
        refuse(f"is nested deeper than {MAX_DEPTH} levels", field=field)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        refuse(f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})", field=field)
    except _Refused as error:
        refuse(str(error), field=field)
    except ValueError:
        # int() of more than sys.get_int_max_str_digits() digits; the limit is the interpreter's guard against O(n²).
        refuse("holds a whole number with too many digits", field=field)
    if _SURROGATE.search(text):
        _refuse_lone_surrogates(value, field)
    return value


def dump(value: Any) -> str:
    """Compact JSON text of a value that JSON can hold."""
    return _ENCODER.encode(value)


class _Refused(ValueError):
    """JSON by its grammar, but without one meaning."""


def _text(raw: bytes, field: str) -> str:
    if raw.startswith(_BOM):
        refuse("starts with a byte order mark; send plain UTF-8", field=field)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        refuse(f"is not UTF-8 (byte {error.start})", field=field)


def _too_deep(raw: bytes) -> bool:
    """Whether brackets outside of strings nest deeper than MAX_DEPTH. Each pass takes the innermost level away."""
    brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        fewer = _PAIR.sub(b"", brackets)
        if len(fewer) == len(brackets):
            # Nothing closes: all is balanced, or this is no JSON, and only much of it endangers the decoder's stack.
            return len(brackets) > MAX_DEPTH
        brackets = fewer
    return bool(brackets)


def _refuse_lone_surrogates(value: Any, field: str) -> None:
    try:
        dump(value).encode()
    except UnicodeEncodeError:
        refuse("holds half of a surrogate pair (\\ud800 ... \\udfff alone is no character)", field=field)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _Refused(f"has the key {twice[:100]!r} twice in one object")
    return members


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Refused(f"holds a number that is too large: {text[:30]}")
    return number


def _constant(text: str) -> NoReturn:
    raise _Refused(f"holds {text}, which is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False)
