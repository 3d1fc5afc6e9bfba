"""What a run may take, in the grade that this machine allows.

`cgroup` (root, or a delegated cgroup): the kernel accounts memory and processes of the run as a whole.
`rlimit` (ordinary user): limits for each process, and `memory.MemoryWatch`, polled by the worker, for their sum.
"""

from __future__ import annotations

import math
import os
import resource
from typing import Literal

from faaspot_runner.contract import Limits
from faaspot_runner.sandbox.cgroup_tree import MEGABYTE, CgroupsUnavailable
from faaspot_runner.sandbox.cgroups import detect

Grade = Literal["cgroup", "rlimit"]

ZYGOTE_MEMORY_MB = 256
"""What a sandbox's group gets on top of the memory of a run, for the zygote and its spare children."""
ZYGOTE_PIDS = 64
"""What a sandbox's group gets on top of the processes of a run."""

OPEN_FILES = {"cgroup": 1024, "rlimit": 256}
"""Also bounds how many descriptors can be in flight between sockets, where no look from outside finds them: fewer
where the watch must be able to count what they hold."""
STACK_MB = 8
SIGNALS = 1024
"""Queued signals and POSIX timers."""


def grade() -> Grade:
    """Which grade this process could have. A spot that runs says what it has: "cgroup" if `Cgroups.open` gave some."""
    return "rlimit" if why_no_cgroups() else "cgroup"


def why_no_cgroups() -> str:
    """The reason for the grade "rlimit" and what to do; empty where cgroups can be used."""
    try:
        detect()
    except CgroupsUnavailable as error:
        return str(error)
    return ""


def rlimits(
    limits: Limits, grade: Grade, *, runs: int = 1, base_mb: int = 0, lives: int = 1
) -> list[tuple[int, int, int]]:
    """(resource, soft, hard) for the process that runs `main`, in the order to set them.

    `base_mb`: data that the process already has when it is forked, its zygote's (VmData): not the run's to pay for.
    `runs`: runs of one sandbox at the same time. The kernel counts RLIMIT_NPROC for each uid in each user namespace,
    and the runs of a sandbox share both, with their zygote. `lives`: how often one process may use up a run's time.
    """
    hard = {
        # 1, not 0: only at 1 does the kernel start no core_pattern program either, which would get the run's memory,
        # its context included, and as root.
        resource.RLIMIT_CORE: 1,
        # Soft and hard are equal, so that it kills even where SIGXCPU is ignored. All processors busy until the
        # deadline are allowed: the deadline itself is kept by the worker, this is the wall behind it.
        resource.RLIMIT_CPU: lives * math.ceil(limits.timeout) * (os.cpu_count() or 1) + 5,
        # Twice the size of /tmp: filling it meets ENOSPC, a huge sparse file EFBIG.
        resource.RLIMIT_FSIZE: 2 * limits.tmp * MEGABYTE,
        resource.RLIMIT_NOFILE: OPEN_FILES[grade],
        resource.RLIMIT_NPROC: limits.pids * runs,
        resource.RLIMIT_STACK: STACK_MB * MEGABYTE,
        resource.RLIMIT_MEMLOCK: 64 * 1024,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: SIGNALS,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
    }
    if grade == "rlimit":
        # DATA, not AS: numpy and its kin reserve far more addresses than they use.
        hard[resource.RLIMIT_DATA] = (limits.memory + base_mb) * MEGABYTE
    return [(kind, *_lowered(kind, value)) for kind, value in hard.items()]


def _lowered(kind: int, value: int) -> tuple[int, int]:
    """Soft and hard value, never above the hard limit that we have: raising one needs a capability."""
    _, ours = resource.getrlimit(kind)
    value = value if ours == resource.RLIM_INFINITY else min(value, ours)
    return value, value
