"""Keeps a whole sandbox within its memory where no cgroup does: looks at it from outside for as long as it lives.

The workers watch their runs, each for itself and more often. Here it is what they do not see: the zygote, what its
import has started, runs that nobody asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable

from faaspot_runner.sandbox.limits import ZYGOTE_MEMORY_MB
from faaspot_runner.sandbox.memory import SandboxWatch

SHORTEST, LONGEST = 0.25, 2.0
"""Seconds between two looks at one sandbox."""
PATIENCE = 1.0
"""Seconds for which the sum may be too high: a run that takes too much is its worker's to end, and the rest lives on.
Beyond twice the limit there is none."""


async def overrun(pid: int, memory_mb: int, runs: Callable[[], int]) -> str | None:
    """Watch until it takes too much, and say how; None if it ends before. Cancel it when it is stopped.

    `pid`: the sandbox's holder. `memory_mb`: what one run may have. `runs`: the most that there can be at once by now.
    Raises OSError if it cannot be counted.
    """
    alone = memory_mb + ZYGOTE_MEMORY_MB
    late = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as watches:
        try:
            whole = watches.enter_context(SandboxWatch(pid))
            own = watches.enter_context(SandboxWatch(pid, runs=False))
        except ProcessLookupError:
            return None
        machine = watches.enter_context(open("/proc/meminfo", "rb", buffering=0)).fileno()
        while whole.alive():
            together = alone + memory_mb * runs()
            everything = imported = await asyncio.to_thread(whole.charged_mb, together)
            if everything > alone:
                imported = await asyncio.to_thread(own.charged_mb, alone)
            if imported > alone:
                return f"what the function's import started took more memory than {alone} MB ({own.last})"
            if everything <= together:
                late = time.monotonic() + PATIENCE
            elif everything > 2 * together or time.monotonic() > late:
                return f"its import and its runs together took more memory than {together} MB ({whole.last})"
            left = min(alone - imported, together - everything)
            await _pause(left, machine)
    return None


async def _pause(left_mb: float, machine: int) -> None:
    """Until the next look: the soonest once the machine has lost half of what is left to the sandbox.

    One number for all of them tells that nobody has taken much, at a fifth of what a look costs.
    """
    end = time.monotonic() + LONGEST
    enough = _available_mb(machine) - left_mb / 2
    while True:
        await asyncio.sleep(SHORTEST)
        if _available_mb(machine) <= enough or time.monotonic() > end:
            return


def _available_mb(machine: int) -> float:
    """The machine's memory that is to be had. `machine`: /proc/meminfo; to open it costs more than to read it."""
    return int(os.pread(machine, 512, 0).partition(b"MemAvailable:")[2].split()[0]) / 1024
