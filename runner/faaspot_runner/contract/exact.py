"""Whether what came over the seam is what its dataclass says, field by field.

A spot on another host may be anybody's by now. What it sends is used in arithmetic, in paths and in statements to the
database, so a value of another type or size than was promised must not come further than the door.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

LARGEST = 9e15
"""Of any number: as microseconds it is the year 2255, and a thousand times it is still a whole number of 64 bits."""
LAST_MOMENT = 1e11
"""Epoch seconds that every calendar can show."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SPOT = re.compile(r"[\x20-\x7e]{0,8192}")
"""An address, or those of all local spots."""
_ENVIRONMENT = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

_T = TypeVar("_T")


def json_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError for anything else, however deep it is."""
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("a message is not as deep as that") from None
    if not isinstance(data, dict):
        raise ValueError("a message is a JSON object")
    return data


def exact(message: _T) -> _T:
    """The same message, every value of the type that its field says. Raises ValueError."""
    for name, kinds, fits in _fields(type(message)):
        value = getattr(message, name)
        if type(value) not in kinds or not (fits is None or value is None or fits(value)):
            raise ValueError(f"{type(message).__name__}.{name} is not what it should be")
    return message


def of_a_run(execution_id: str, spot: str, at: float) -> None:
    """What every report names. Raises ValueError for what no record and no calendar could hold."""
    if not _ID.fullmatch(execution_id):
        raise ValueError("execution_id is no execution's")
    if not _SPOT.fullmatch(spot):
        raise ValueError("spot is no spot's name")
    moment(at)


def of_a_build(environment: str | None, archive: str | None) -> None:
    """What later names a directory and a file. Raises ValueError for what could name another one."""
    if environment is not None and not _ENVIRONMENT.fullmatch(environment):
        raise ValueError("environment is no environment's name")
    if archive is not None and not _DIGEST.fullmatch(archive):
        raise ValueError("archive is no digest")


def moment(*seconds: float) -> None:
    """Raises ValueError for epoch seconds that no calendar has."""
    if not all(0 <= each < LAST_MOMENT for each in seconds):
        raise ValueError("a time is out of all bounds")


@dataclass(frozen=True, slots=True)
class _Type:
    """What a field takes: values of these very types for which `fits`, if there is one, does not say no."""

    kinds: frozenset[type]
    fits: Callable[[Any], bool] | None = None

    def takes(self, value: Any) -> bool:
        return type(value) in self.kinds and (self.fits is None or value is None or self.fits(value))


def _fields(kind: type) -> list[tuple[str, frozenset[type], Callable[[Any], bool] | None]]:
    known = _KNOWN.get(kind)
    if known is None:
        hints = get_type_hints(kind)
        found = [(each.name, _of(hints[each.name])) for each in fields(kind)]
        known = _KNOWN[kind] = [(name, wanted.kinds, wanted.fits) for name, wanted in found]
    return known


_KNOWN: dict[type, list[tuple[str, frozenset[type], Callable[[Any], bool] | None]]] = {}


def _of(hint: Any) -> _Type:
    origin, inner = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is Literal:
        return _Type(frozenset({str}), lambda value: value in inner)
    if origin in (Union, types.UnionType):
        return _either([_of(each) for each in inner])
    if origin is tuple:
        item = _of(inner[0])
        return _Type(frozenset({tuple}), lambda value: all(map(item.takes, value)))
    if origin in (dict, Mapping):
        item = _of(inner[1])
        return _Type(frozenset({dict}), lambda value: all(map(item.takes, value.values())))
    return _Type(frozenset({hint}), _is_exact)


def _either(choices: Sequence[_Type]) -> _Type:
    kinds = frozenset[type]().union(*(each.kinds for each in choices))
    return _Type(kinds, lambda value: any(each.takes(value) for each in choices))


def _is_exact(value: Any) -> bool:
    try:
        exact(value)
    except ValueError:
        return False
    return True


def _is_bounded(value: float) -> bool:
    return -LARGEST < value < LARGEST  # no NaN, either


_PLAIN: Mapping[Any, _Type] = {
    str: _Type(frozenset({str})),
    bool: _Type(frozenset({bool})),
    type(None): _Type(frozenset({type(None)})),
    int: _Type(frozenset({int}), _is_bounded),
    float: _Type(frozenset({int, float}), _is_bounded),
}
