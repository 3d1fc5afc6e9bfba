"""W3C trace context: which trace a run belongs to, by its caller's word. Pure."""

from __future__ import annotations

import re
from hashlib import sha256

HEADER = "traceparent"
_FORM = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)


def parse(header: str | None) -> str | None:
    """The traceparent in a header, in the form of version 00; None where there is none that holds.

    What is malformed is passed over, as the standard wants it: tracing must never make a request fail.
    """
    found = _FORM.fullmatch((header or "").strip())
    if found is None or found["version"] == "ff" or (found["version"] == "00" and found["more"]):
        return None
    if not found["trace"].strip("0") or not found["parent"].strip("0"):
        return None
    flags = int(found["flags"], 16) & 1
    return f"00-{found['trace']}-{found['parent']}-{flags:02x}"


def span_id(execution_id: str, attempt: int) -> str:
    """The 16 hex digits of the span of an attempt: they can be handed on before there is a span."""
    return sha256(f"{execution_id}-{attempt}".encode()).hexdigest()[:16]


def handed_on(caller: str | None, execution_id: str, attempt: int) -> str:
    """What a function is told where its execution is a span: the caller's trace, else one that begins here."""
    trace, flags = (execution_id.replace("-", ""), "01") if caller is None else (caller.split("-")[1], caller[-2:])
    return f"00-{trace}-{span_id(execution_id, attempt)}-{flags}"


def trace_id(traceparent: str | None) -> str | None:
    """The 32 hex digits that name the whole trace."""
    return None if traceparent is None else traceparent.split("-")[1]
