"""Named places in the code where a test may have a process die, as by `kill -9`, in the very moment that matters.

A process is armed with a directory by its settings, in tests alone; else a point costs one comparison. Whoever comes to
a point whose name is a file there takes the file away and kills itself: one file, one death.
"""

from __future__ import annotations

import os
import signal
from typing import Literal

Point = Literal[
    "before_commit",  # API: a run's record is written and not committed
    "after_commit",  # API: it is committed, no worker is woken, nobody has heard its id
    "after_dequeue",  # worker: a wake-up is taken out of its queue, its lease not taken
    "before_report",  # worker: a run has its result, nobody has heard it
    "before_acknowledge",  # recorder: ends are committed, and still in the stream
    "after_told",  # courier: a receiver has heard, and that is not written
]
_directory = ""


def arm(directory: str) -> None:
    """Have this process die at the points whose files are in `directory`; "" disarms it."""
    global _directory
    _directory = directory


def reach(point: Point) -> None:
    """Die here, if a test says so."""
    if not _directory:
        return
    try:
        os.unlink(os.path.join(_directory, point))
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
