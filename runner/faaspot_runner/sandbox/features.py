"""What the kernel of this machine lets us do, found by trying in a throw-away child, never by version numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One thing that was tried. `required`: without it the sandbox runtime is refused."""

    name: str
    present: bool
    required: bool
    needed_for: str
    what_to_do: str
    detail: str = ""


def probe() -> tuple[Feature, ...]:
    """Try everything. Takes well under 200 ms and leaves nothing behind."""
    raise NotImplementedError


def missing_for_sandbox() -> tuple[Feature, ...]:
    """The features without which the sandbox runtime is refused; empty when it can be offered."""
    raise NotImplementedError
