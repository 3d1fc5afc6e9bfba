"""The one shape of an error's body: RFC 9457's fields, and those that the published clients read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from werkzeug.http import HTTP_STATUS_CODES

from faaspot_api.http import strict

MEDIA = "application/problem+json"


def text(status: int, code: str, message: str, more: Mapping[str, Any] | None = None) -> bytes:
    """JSON of an error. `more`: execution_id, errors, error, where they apply."""
    body = {
        "type": f"urn:faaspot:error:{code}",
        "title": HTTP_STATUS_CODES.get(status, "Error"),
        "status": int(status),
        "detail": message,
        "message": message,
        "error_code": code,
        **(more or {}),
    }
    # Half a surrogate pair, which only a function's own text can hold, becomes the JSON escape for it.
    return strict.dump(body).encode("utf-8", "backslashreplace")
