"""Args that are too long for a run's request: behind it on the run's channel, and looked into here alone.

The control plane passes them on unread. So what it refuses in shorter ones is refused here, where it costs nobody but
the run: bytes that are no JSON, and JSON with more than one meaning.
"""

from __future__ import annotations

import json
import re

from . import wire

TYPE_CHECKING = False  # `typing` itself takes longer to import than all of ours
if TYPE_CHECKING:
    import socket
    from typing import Any

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class InvalidArgs(Exception):
    """The args are not a strict JSON object; the text says why."""


def read(channel: socket.socket, size: int) -> str:
    """That many bytes of the channel as text. Raises InvalidArgs if they are not UTF-8, WireError, MemoryError."""
    data = bytearray(size)
    wire.read_into(channel, data)
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgs("the args are not UTF-8 (byte %d)" % error.start) from None


def parse(text: str) -> dict[str, Any]:
    """The args in the text of a JSON object. Raises InvalidArgs."""
    try:
        args = json.loads(text, object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
        if _SURROGATE.search(text):
            _check_characters(args)
    except RecursionError:
        raise InvalidArgs("the args are nested too deeply") from None
    except ValueError as error:
        raise InvalidArgs("the args are not JSON: %s" % error) from None
    if not isinstance(args, dict):
        raise InvalidArgs("the args must be a JSON object of parameters")
    return args


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key comes twice in one object")
    return members


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is too large: %s" % text[:30])
    return number


def _constant(text: str) -> Any:
    raise ValueError("%s is no JSON" % text)


def _check_characters(args: Any) -> None:
    """Find halves of surrogate pairs. Raises ValueError, as UnicodeEncodeError."""
    stack = [args]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            if not value.isascii():
                value.encode()
        elif isinstance(value, dict):
            stack.extend(value)
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
