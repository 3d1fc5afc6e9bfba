"""What functions return: in the record, or as a blob where that is too long for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

MAX_RESULT_BYTES = 8 * 1024 * 1024
"""Of a result that is in its record; a longer one is a blob."""
MAX_LARGE_BYTES = 1024 * 1024 * 1024
"""Of any result; a run's memory bounds it, too."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Whether it names a blob. Whatever else is said may be no path."""
    return _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeOutput:
    """An output that is too long for a record: the blob of that digest, so many bytes of what should be JSON."""

    digest: str
    size: int

    @classmethod
    def of(cls, data: dict[str, Any] | None) -> LargeOutput | None:
        """From its JSON object. Raises ValueError for what names no blob, TypeError or KeyError for another object."""
        if data is None:
            return None
        if not isinstance(data["digest"], str) or not is_digest(data["digest"]):
            raise ValueError("a large output without a digest")
        if not isinstance(data["size"], int) or not 0 <= data["size"] <= MAX_LARGE_BYTES:
            raise ValueError("a large output of no size")
        return cls(**data)
