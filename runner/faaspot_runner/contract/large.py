"""What functions are given and return: in the record, or as a blob where that is too long for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

MAX_ARGS_BYTES = 8 * 1024 * 1024
MAX_RESULT_BYTES = 8 * 1024 * 1024
"""Of args and of a result that are in their record; longer ones are blobs."""
MAX_LARGE_BYTES = 1024 * 1024 * 1024
"""Of any args and any result; a run's memory bounds them, too."""
KEPT_FREE = 0.1
"""What part of a disk large values leave to others."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Whether it names a blob. Whatever else is said may be no path."""
    return _DIGEST.fullmatch(text) is not None


def most_bytes(memory: int) -> int:
    """Bytes of the largest args and of the largest result of a run with so many megabytes: what it could hold."""
    return max(MAX_RESULT_BYTES, min(MAX_LARGE_BYTES, memory * 1024 * 1024))


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeValue:
    """Args or an output too long for a record: the blob of that digest, so many bytes of what should be JSON."""

    digest: str
    size: int

    @classmethod
    def of(cls, data: dict[str, Any] | None) -> LargeValue | None:
        """From its JSON object. Raises ValueError for what names no blob, TypeError or KeyError for another object."""
        if data is None:
            return None
        if not isinstance(data["digest"], str) or not is_digest(data["digest"]):
            raise ValueError("a large value without a digest")
        if not isinstance(data["size"], int) or not 0 <= data["size"] <= MAX_LARGE_BYTES:
            raise ValueError("a large value of no size")
        return cls(**data)
