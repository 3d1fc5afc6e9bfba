"""The groups of one spot: one for each sandbox, and run slots that each worker keeps and uses again.

::

    OWN GROUP OF THE SPOT/
      faaspot-NAME/           all sandboxes together: few cpu shares, so that the platform answers under load
        s-ID/                 a sandbox: its zygote and the spare children, with limits of its own
        r-OWNER+N/            a run slot of one worker: the limits of one run

Cgroup v1 controllers, a v2 mount without controllers beside them, and pure v2 all look like this from outside.
A slot is only ever used again by the same sandbox: a zygote may keep the descriptors it was handed.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import threading
from collections import OrderedDict
from pathlib import Path

from faaspot_runner.contract import Limits
from faaspot_runner.sandbox import container
from faaspot_runner.sandbox.cgroup_tree import (
    CgroupsUnavailable,
    Group,
    PooledSlot,
    RunSlot,
    Tree,
    children,
    destroy,
    find,
    hierarchies,
)
from faaspot_runner.sandbox.cgroup_v1 import TreeV1
from faaspot_runner.sandbox.cgroup_v2 import TreeV2

IDLE_SLOTS = 64
"""Empty slots that one pool keeps for sandboxes that run often."""
PREFIX = "faaspot-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def detect(name: str = "probe", proc: Path = Path("/proc/self")) -> Tree:
    """How cgroups can be used here. Changes nothing: the tree is not prepared.

    Raises CgroupsUnavailable with the reason and what to do.
    """
    try:
        return _detect(name, proc)
    except CgroupsUnavailable as error:
        if container.found() is None:
            raise
        raise CgroupsUnavailable(f"{error}; a container: start it with {container.CGROUPS}") from None


def _detect(name: str, proc: Path) -> Tree:
    found = hierarchies(proc)
    if any("memory" in each.controllers for each in found if not each.unified):
        return TreeV1.detect(found, PREFIX + _checked(name))
    return TreeV2.detect(found, PREFIX + _checked(name), root=os.geteuid() == 0)


class Cgroups:
    """All groups of one spot. A spot makes one at its start; its workers open the same by `described`."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    @classmethod
    def open(cls, name: str) -> Cgroups | None:
        """The spot's groups, made if need be; None where no cgroup can be used (`limits.grade` is then "rlimit").

        `name` must be the spot's alone on this machine, also over restarts: `sweep` kills what lives under it.
        """
        try:
            tree = detect(name)
            tree.prepare()
        except CgroupsUnavailable:
            return None
        return cls(tree)

    @classmethod
    def described(cls, text: str) -> Cgroups:
        """The same groups in another process, from `describe`."""
        fields = json.loads(text)
        return cls(TreeV1.described(fields) if fields["version"] == "v1" else TreeV2.described(fields))

    def describe(self) -> str:
        """JSON text from which a worker process opens the same groups."""
        return json.dumps(self._tree.describe())

    @property
    def version(self) -> str:
        """ "v1" or "v2": which controllers limit memory and pids."""
        return self._tree.version

    def sandbox_group(self, sandbox: str, *, memory_mb: int, pids: int) -> Group:
        """A new group for the zygote of a sandbox. The numbers are taken as they are: add the zygote's own need.

        Raises OSError.
        """
        return self._tree.sandbox(f"s-{_checked(sandbox)}", memory_mb=memory_mb, pids=pids)

    def slots(self, owner: str) -> RunSlots:
        """The pool of one worker process. `owner`: the worker's name, alone on this spot."""
        return RunSlots(self._tree, _checked(owner))

    def sweep(self, owner: str | None = None) -> int:
        """Kill and remove what a dead spot of this name left, or with `owner` only the slots of a dead worker.

        Call it before the first sandbox is made. Returns how many groups are left because something did not die.
        """
        if owner is not None:
            prefix = f"r-{_checked(owner)}+"
            left = [group for home in self._tree.homes for group in children(home) if group.name.startswith(prefix)]
            return sum(not destroy(group, self._tree.directories) for group in left)
        homes = set(self._tree.homes)
        strays = {stray for mount in self._tree.mounts for stray in find(mount, self._tree.homes[0].name)} - homes
        left = [*strays, *(group for home in homes for group in children(home))]
        return sum(not destroy(group, self._tree.directories) for group in left)

    def close(self) -> int:
        """Kill and remove everything of this spot, at its end. Returns how many groups are left."""
        return sum(not destroy(home, self._tree.directories) for home in self._tree.homes)


class RunSlots:
    """The run slots of one worker process; its threads may share it."""

    def __init__(self, tree: Tree, owner: str) -> None:
        self._tree, self._owner = tree, owner
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._idle: OrderedDict[str, list[PooledSlot]] = OrderedDict()  # the sandbox that waits longest comes first
        self._busy: dict[int, tuple[str, PooledSlot]] = {}

    def acquire(self, limits: Limits, *, sandbox: str) -> RunSlot:
        """A slot with these limits and counters at zero: one that this sandbox used before, or a new one.

        Raises OSError.
        """
        while slot := self._take(sandbox):
            if slot.prepare(limits):
                break
            slot.close()
        else:
            slot = self._tree.slot(f"r-{self._owner}+{next(self._numbers)}")
            if not slot.prepare(limits):
                slot.close()
                raise OSError(errno.EBUSY, "a new cgroup is not empty", str(self._tree.homes[0]))
        with self._lock:
            self._busy[id(slot)] = (sandbox, slot)
        return slot

    def release(self, slot: RunSlot) -> None:
        """Give it back when the run is dead. A slot that is not empty is killed and thrown away."""
        with self._lock:
            sandbox, pooled = self._busy.pop(id(slot))
        if pooled.populated():
            pooled.close()
            return
        with self._lock:
            self._idle.setdefault(sandbox, []).append(pooled)
            self._idle.move_to_end(sandbox)
            surplus = self._surplus()
        for each in surplus:
            each.close()

    def forget(self, sandbox: str) -> None:
        """Remove the idle slots of a sandbox that is gone."""
        with self._lock:
            idle = self._idle.pop(sandbox, [])
        for slot in idle:
            slot.close()

    def close(self) -> None:
        """Remove every slot, idle or not, with what lives in it."""
        with self._lock:
            slots = [slot for _, slot in self._busy.values()] + [slot for idle in self._idle.values() for slot in idle]
            self._busy, self._idle = {}, OrderedDict()
        for slot in slots:
            slot.close()

    def _take(self, sandbox: str) -> PooledSlot | None:
        with self._lock:
            idle = self._idle.get(sandbox)
            if not idle:
                return None
            slot = idle.pop()
            if not idle:
                del self._idle[sandbox]
            return slot

    def _surplus(self) -> list[PooledSlot]:
        count = sum(len(idle) for idle in self._idle.values())
        surplus = []
        while count > IDLE_SLOTS:
            sandbox, idle = next(iter(self._idle.items()))
            surplus.append(idle.pop(0))
            count -= 1
            if not idle:
                del self._idle[sandbox]
        return surplus


def _checked(name: str) -> str:
    """A name that is safe as a directory. Raises ValueError: these come from us, never from a user."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a name for a cgroup: {name!r}")
    return name
