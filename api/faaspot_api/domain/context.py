"""Reading a deployment's context: its secrets, as lines `key = "value"`, as a JSON object, or as a dict.

Lines are those of python-dotenv (comments, quotes, `export`), without its interpolation: `${X}` stays as it is
written, and nothing of our own environment can get in. Error texts name lines and keys, never values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from io import StringIO
from typing import Any, NoReturn

from dotenv.parser import Binding, parse_stream

from faaspot_api.errors import FieldError, Invalid, TooLarge
from faaspot_runner.contract import MAX_CONTEXT_BYTES

MAX_BLANKS = 200
"""Blanks in a row in a line: dotenv's pattern for comments takes quadratic time with them."""
MAX_KEY = 255

_BLANKS = re.compile(rf"[^\S\r\n]{{{MAX_BLANKS + 1}}}")
_NEWLINE = re.compile(r"\r\n|\r|\n")


def parse(value: str | Mapping[str, Any]) -> dict[str, Any]:
    """The context as a dict, {} for an empty text.

    Raises Invalid that names the line or key, TooLarge past `MAX_CONTEXT_BYTES`.
    """
    if isinstance(value, str):
        _check_size(len(value.encode("utf-8", "surrogatepass")))
        found = _text(value.removeprefix("\ufeff"))
    else:
        found = dict(value)
    _check_keys(found)
    _check_size(len(dump(found)))
    return found


def dump(context: Mapping[str, Any]) -> bytes:
    """The JSON that is sealed for the spots. Raises Invalid for what JSON cannot hold."""
    try:
        return json.dumps(context, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError):
        _refuse("it holds a value that JSON cannot (NaN, Infinity, bytes, too deep nesting)")


def _text(text: str) -> dict[str, Any]:
    return _json(text) if text.lstrip().startswith("{") else _lines(text)


def _json(text: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
    except RecursionError:
        _refuse("the JSON is nested too deeply")
    except json.JSONDecodeError as error:
        _refuse(f"the JSON is malformed: {error.msg} at column {error.colno}", error.lineno)
    except ValueError:
        _refuse("the JSON holds a number with too many digits")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        _refuse(f"the key {twice!r} is there twice")
    return found


def _constant(name: str) -> NoReturn:
    _refuse(f"{name} is no JSON number")


def _lines(text: str) -> dict[str, Any]:
    if blanks := _BLANKS.search(text):
        line = len(_NEWLINE.findall(text, 0, blanks.start())) + 1
        _refuse(f"more than {MAX_BLANKS} blanks in a row; write the context as a JSON object", line)
    found: dict[str, Any] = {}
    for binding in parse_stream(StringIO(text)):
        line = _line(binding)
        if binding.error or (binding.key is not None and binding.value is None):
            _refuse('expected key = "value"', line)
        if binding.key is None:
            continue
        if binding.key in found:
            _refuse(f"the key {binding.key!r} is there twice", line)
        found[binding.key] = binding.value
    return found


def _line(binding: Binding) -> int:
    """The line on which the binding itself begins; dotenv counts the blank lines before it to it."""
    text = binding.original.string
    return binding.original.line + len(_NEWLINE.findall(text[: len(text) - len(text.lstrip())]))


def _check_keys(found: Mapping[Any, Any]) -> None:
    for key in found:
        if not isinstance(key, str) or not key or len(key) > MAX_KEY:
            _refuse(f"a key must be a text of 1 to {MAX_KEY} characters")


def _check_size(size: int) -> None:
    if size > MAX_CONTEXT_BYTES:
        message = f"at most {MAX_CONTEXT_BYTES} bytes of context are taken, these are {size}"
        raise TooLarge(message, errors=(FieldError(field="context", message=message),))


def _refuse(message: str, line: int | None = None) -> NoReturn:
    text = message if line is None else f"line {line}: {message}"
    raise Invalid.fields(FieldError(field="context", message=text, line=line))
