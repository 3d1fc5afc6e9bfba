"""What a run may take, in the grade that this machine allows.

`cgroup` (root, or a delegated cgroup): the kernel accounts memory and processes of the run as a whole.
`rlimit` (ordinary user): limits for each process, and `memory.MemoryWatch`, polled by the worker, for their sum.
"""

from __future__ import annotations

import resource
from typing import Literal

from faaspot_runner.contract import Limits

Grade = Literal["cgroup", "rlimit"]

ZYGOTE_MEMORY_MB = 256
"""What a sandbox's group gets on top of the memory of a run, for the zygote and its spare children."""
ZYGOTE_PIDS = 64
"""What a sandbox's group gets on top of the processes of a run."""


def grade() -> Grade:
    """Which grade this process could have. A spot that runs says what it has: "cgroup" if `Cgroups.open` gave some."""
    raise NotImplementedError


def rlimits(limits: Limits, grade: Grade, *, runs: int = 1) -> list[tuple[int, int, int]]:
    """(resource, soft, hard) for the process that runs `main`, in the order to set them.

    `runs`: runs of one sandbox at the same time. The kernel counts RLIMIT_NPROC for each uid in each user namespace,
    and the runs of a sandbox share both.
    """
    raise NotImplementedError
