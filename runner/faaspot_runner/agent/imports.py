"""How long each module of the user's import took, by itself."""

from __future__ import annotations

import _thread
import sys
import time

TYPE_CHECKING = False  # `typing` itself takes longer to import than all of ours
if TYPE_CHECKING:
    from typing import Any, Callable

SLOWEST = 5
LEAST_MS = 1.0
_NAME_CHARS = 100
# Compiled as a part of importlib, whose own frames Python leaves out of the tracebacks that people read.
_WATCHED = """
def _find_and_load(name, import_):
    if thread() != watched:
        return load(name, import_)
    inner.append(0.0)
    begin = clock()
    try:
        return load(name, import_)
    finally:
        took = clock() - begin
        times[name] = times.get(name, 0.0) + took - inner.pop()
        inner[-1] += took
"""


class Watch:
    """Within the block every import of this thread is timed. `slowest`: name and milliseconds, the slowest first."""

    def __init__(self) -> None:
        self._importlib: Any = sys.modules["_frozen_importlib"]
        self._load: Callable[..., Any] = self._importlib._find_and_load
        self._times: dict[str, float] = {}

    def __enter__(self) -> Watch:
        names: dict[str, Any] = {
            "load": self._load,
            "times": self._times,
            "inner": [0.0],
            "clock": time.monotonic,
            "thread": _thread.get_ident,
            "watched": _thread.get_ident(),
        }
        exec(compile(_WATCHED, "<frozen importlib._bootstrap>", "exec"), names)
        self._importlib._find_and_load = names["_find_and_load"]
        return self

    def __exit__(self, *_: object) -> None:
        self._importlib._find_and_load = self._load

    def slowest(self) -> dict[str, float]:
        ranked = sorted(self._times.items(), key=lambda item: -item[1])[:SLOWEST]
        return {name[:_NAME_CHARS]: round(took * 1000, 3) for name, took in ranked if took * 1000 >= LEAST_MS}
