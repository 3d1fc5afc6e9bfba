"""For RQ."""

from __future__ import annotations


def hello(name: str) -> str:
    return "Hello " + name
