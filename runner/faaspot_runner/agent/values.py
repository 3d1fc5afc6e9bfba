"""A function's result as strict JSON, or what in it JSON cannot hold, and where."""

from __future__ import annotations

import json

TYPE_CHECKING = False  # `typing` itself takes longer to import than all of ours
if TYPE_CHECKING:
    from typing import Any, Iterator

MOST_BITS = 14_283
"""Integers beyond it have more than 4300 decimal digits, which Python itself refuses to read back."""
_SCALARS = frozenset((str, int, float, bool, type(None)))
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Unserialisable(Exception):
    """The value cannot be JSON; the text names the type and the place."""


def encode(value: Any) -> bytes:
    """Strict JSON, UTF-8. Tuples are arrays. Raises Unserialisable."""
    try:
        # The encoder first: it finds what contains itself, which the walk over the keys would follow for ever.
        text = _encoder.encode(value).encode()
        _check_keys(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Unserialisable(_explain(value, error)) from None
    return text


def _check_keys(value: Any) -> None:
    """Find what the encoder takes without a word: keys that are no str, integers too long to read back."""
    stack = [(value,)]
    while stack:
        for item in stack.pop():
            if isinstance(item, dict):
                if not all(isinstance(key, str) for key in item):
                    raise TypeError
                stack.append(tuple(item.values()))
            elif isinstance(item, (list, tuple)):
                # Long lists of plain values are the common large result: judged by their set of types, at C speed.
                kinds = set(map(type, item))
                if not kinds <= _SCALARS or (int in kinds and _long(item)):
                    stack.append(tuple(item))
            elif isinstance(item, int) and item.bit_length() > MOST_BITS:
                raise ValueError


def _long(items: Any) -> bool:
    return any(type(item) is int and item.bit_length() > MOST_BITS for item in items)


def _explain(value: Any, error: Exception) -> str:
    """Which part it was. The walk is bounded by the depth that the encoder itself could not pass."""
    if isinstance(error, RecursionError):
        return "the result is nested too deeply"
    try:
        found = next(_bad(value, "$", ()), None)
    except RecursionError:
        return "the result is nested too deeply"
    if found is None:
        return "the result cannot be JSON: %s" % error
    path, why = found
    return "%s at %s" % (why, path)


def _bad(value: Any, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) of each part that strict JSON cannot hold."""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        if _surrogate(value):
            yield path, "str with a lone surrogate cannot be JSON"
    elif isinstance(value, int):
        if value.bit_length() > MOST_BITS:
            yield path, "int of more than 4300 digits cannot be JSON"
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            yield path, "float %s cannot be JSON" % json.dumps(float(value))
    elif isinstance(value, (dict, list, tuple)):
        if id(value) in above:
            yield path, "circular reference: a %s that contains itself cannot be JSON" % type(value).__name__
        else:
            for part in _parts(value, path, (*above, id(value))):
                yield part
    else:
        yield path, "%s cannot be JSON" % _name(type(value))


def _parts(value: Any, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, member in value.items():
            if not isinstance(key, str):
                yield path, "dict key of type %s cannot be JSON, keys must be str," % _name(type(key))
            elif _surrogate(key):
                yield path, "dict key with a lone surrogate cannot be JSON"
            else:
                for part in _bad(member, _member(path, key), above):
                    yield part
    else:
        for index, member in enumerate(value):
            for part in _bad(member, "%s[%d]" % (path, index), above):
                yield part


def _member(path: str, key: str) -> str:
    return "%s.%s" % (path, key) if key.isidentifier() else "%s[%s]" % (path, json.dumps(key))


def _surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else "%s.%s" % (kind.__module__, kind.__qualname__)
