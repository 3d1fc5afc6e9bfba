"""The groups of one spot: one for each sandbox, and run slots that each worker keeps and uses again.

::

    OWN GROUP OF THE SPOT/
      faaspot-NAME/           all sandboxes together: few cpu shares, so that the platform answers under load
        s-ID/                 a sandbox: its zygote and the spare children, with limits of its own
        r-OWNER-N/            a run slot of one worker: the limits of one run

Cgroup v1 controllers, a v2 mount without controllers beside them, and pure v2 all look like this from outside.
A slot is only ever used again by the same sandbox: a zygote may keep the descriptors it was handed.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import threading
from collections import OrderedDict
from pathlib import Path

from faaspot_runner.contract import Limits
from faaspot_runner.sandbox.cgroup_tree import CgroupsUnavailable, Group, PooledSlot, RunSlot, Tree, hierarchies
from faaspot_runner.sandbox.cgroup_v1 import TreeV1
from faaspot_runner.sandbox.cgroup_v2 import TreeV2

IDLE_SLOTS = 64
"""Empty slots that one pool keeps for sandboxes that run often."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def detect(proc: Path = Path("/proc/self")) -> Tree:
    """How cgroups can be used here. Changes nothing; the tree is not prepared and has no name yet.

    Raises CgroupsUnavailable with the reason and what to do.
    """
    raise NotImplementedError


class Cgroups:
    """All groups of one spot. A spot makes one at its start; its workers open the same by `described`."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    @classmethod
    def open(cls, name: str) -> Cgroups | None:
        """The spot's groups, made if need be; None where no cgroup can be used (`limits.grade` is then "rlimit").

        `name` must be the spot's alone on this machine, also over restarts: `sweep` kills what lives under it.
        """
        raise NotImplementedError

    @classmethod
    def described(cls, text: str) -> Cgroups:
        """The same groups in another process, from `describe`."""
        raise NotImplementedError

    def describe(self) -> str:
        """JSON text from which a worker process opens the same groups."""
        raise NotImplementedError

    @property
    def version(self) -> str:
        """ "v1" or "v2": which controllers limit memory and pids."""
        return self._tree.version

    def sandbox_group(self, sandbox: str, *, memory_mb: int, pids: int) -> Group:
        """A new group for the zygote of a sandbox. The numbers are taken as they are: add the zygote's own need.

        Raises OSError.
        """
        raise NotImplementedError

    def slots(self, owner: str) -> RunSlots:
        """The pool of one worker process. `owner`: the worker's name, alone on this spot."""
        raise NotImplementedError

    def sweep(self, owner: str | None = None) -> int:
        """Kill and remove what a dead spot of this name left, or with `owner` only the slots of a dead worker.

        Call it before the first sandbox is made. Returns how many groups are left because something did not die.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Remove everything of this spot, at its end."""
        raise NotImplementedError


class RunSlots:
    """The run slots of one worker process; its threads may share it."""

    def acquire(self, limits: Limits, *, sandbox: str) -> RunSlot:
        """A slot with these limits and counters at zero: one that this sandbox used before, or a new one.

        Raises OSError.
        """
        raise NotImplementedError

    def release(self, slot: RunSlot) -> None:
        """Give it back when the run is dead. A slot that is not empty is killed and thrown away."""
        raise NotImplementedError

    def forget(self, sandbox: str) -> None:
        """Remove the idle slots of a sandbox that is gone."""
        raise NotImplementedError

    def close(self) -> None:
        """Remove every slot, idle or not."""
        raise NotImplementedError
