"""The place in a list where its next page begins, as opaque text."""

from __future__ import annotations

import base64
import binascii

from faaspot_api.errors import FieldError, Invalid


def text(key: tuple[int, int]) -> str:
    """The cursor of a key (created, seq)."""
    return base64.urlsafe_b64encode(b"%d.%d" % key).decode().rstrip("=")


def parse(cursor: str) -> tuple[int, int]:
    """The key again. Raises Invalid for text that is none."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        created, seq = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii").split(".")
        key = int(created), int(seq)
    except (ValueError, binascii.Error):
        key = (-1, -1)
    if not all(0 <= part < 1 << 63 for part in key):
        raise Invalid.fields(FieldError(field="cursor", message="is not one that a page gave; begin without it"))
    return key
