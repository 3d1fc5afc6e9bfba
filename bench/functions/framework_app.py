"""For functions-framework."""

from __future__ import annotations

from typing import Any


def main(request: Any) -> str:
    return "Hello " + str(request.get_json()["name"])
