"""JSON as we accept it from outside: one meaning, or a 400 that says what is wrong and where.

Python's own decoder takes duplicate keys, ``NaN``, ``1e999`` and nesting until the stack ends; a function would then
see another value than the caller wrote. All of that is refused here, once, for every body, query and form.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from itertools import accumulate
from typing import Any, NoReturn

from faaspot_api.errors import FieldError, Invalid

MAX_DEPTH = 200
"""Levels of nesting. Far below Python's recursion limit, so that no later reader of the same text runs into it."""

_BOM = b"\xef\xbb\xbf"
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NEITHER_BRACKET_NOR_QUOTE = bytes(set(range(256)) - set(b'[]{}"'))
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
    """Whether brackets outside of strings nest deeper than MAX_DEPTH, in one linear scan without the decoder's stack.

    Of what is no JSON only the part before its first fault counts: the decoder goes no further.
    """
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw
    # Each bracket becomes +1 or -1 as a signed byte; two quotes side by side open and close nothing.
    steps = plain.translate(_STEPS, _NEITHER_BRACKET_NOR_QUOTE).replace(b'""', b"")
    outside = b"".join(steps.split(b'"')[::2])
    return max(accumulate(memoryview(outside).cast("b")), default=0) > MAX_DEPTH


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
