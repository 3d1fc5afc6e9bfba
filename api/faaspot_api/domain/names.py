"""Names that people choose, and ids that the platform makes."""

from __future__ import annotations

import os
import re
import time
from uuid import UUID, uuid4

from faaspot_api.errors import FieldError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_EXECUTION = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_name(text: str) -> bool:
    """Whether `text` can name a deployment or a token; no path, URL or shell reads it as anything else."""
    return NAME.fullmatch(text) is not None


def name_error(text: str, field: str = "name") -> FieldError | None:
    """Why `text` cannot be a name, None if it can."""
    if is_name(text):
        return None
    return FieldError(
        field=field,
        message="must begin with a letter or digit and hold only letters, digits, '.', '_' and '-', at most 63 in all",
    )


def is_execution_id(text: str) -> bool:
    """Whether `text` has the form of an execution's id."""
    return _EXECUTION.fullmatch(text) is not None


def new_execution_id() -> str:
    """A fresh UUID, version 7: the clock in front keeps new rows side by side in an index, 74 bits are random."""
    millis = time.time_ns() // 1_000_000 & (1 << 48) - 1
    random = int.from_bytes(os.urandom(10), "big")
    value = millis << 80 | 7 << 76 | (random >> 62 & 0xFFF) << 64 | 2 << 62 | random & (1 << 62) - 1
    return str(UUID(int=value))


def new_id() -> str:
    """A fresh id of a deployment or version: 32 hexadecimal digits."""
    return uuid4().hex
