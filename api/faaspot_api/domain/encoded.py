"""The percent-encoding of code, requirements and context on the wire.

The published clients send these texts percent-encoded (UTF-8, `/` kept); curl users send them raw. One rule tells the
two apart: whatever the encoder can put out is decoded once, anything else is taken as it stands. So raw code that
happens to hold ``"100%41"`` survives (its quotes are no output of the encoder), and an encoded ``%2541`` is ``%41``.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

_ENCODER_OUTPUT = re.compile(r"[A-Za-z0-9_.~/%-]*")


def decode(text: str) -> str:
    """The text that was meant: `text` decoded once if the encoder could have made it, else `text` itself.

    Raises ValueError if it is percent-encoded, but not of UTF-8.
    """
    if "%" not in text or _ENCODER_OUTPUT.fullmatch(text) is None:
        return text
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("is percent-encoded, but not of UTF-8 text") from None


def encode(text: str) -> str:
    """`text` as the published clients send it and expect it back. `decode` undoes it for every text."""
    return quote(text)
