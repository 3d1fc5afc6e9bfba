"""Pure cgroup v2: at the root of the machine, or in a subtree that was delegated to us.

A group either has processes or hands controllers down, except the real root. So in a delegated subtree the platform's
own processes first move into a leaf, `faaspot-platform`, beside the homes of its spots.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faaspot_runner.contract import Limits
from faaspot_runner.sandbox import container
from faaspot_runner.sandbox.cgroup_tree import (
    MEGABYTE,
    CgroupsUnavailable,
    Directories,
    Hierarchy,
    counter,
    kill,
    pids_in,
    read,
    reread,
    wait_empty,
    write,
)

PLATFORM = "faaspot-platform"
CPU_WEIGHT = 25
"""Of all sandboxes together; any other group weighs 100. Counts only while the processors are busy."""
RESIDUE = 8 * MEGABYTE
"""As in cgroup_v1."""

DELEGATE = (
    "start it in a delegated cgroup (systemd-run --user --scope -p Delegate=yes fas up; in a unit file: Delegate=yes), "
    "or as root"
)


@dataclass(slots=True, kw_only=True)
class TreeV2:
    """The home of one spot. `top`: the group that hands the controllers down to it."""

    name: str
    top: Path
    mount: Path
    directories: Directories = field(default_factory=Directories)

    version = "v2"

    @classmethod
    def detect(cls, found: list[Hierarchy], name: str, *, root: bool) -> TreeV2:
        """The tree of `name`; `root`: whether we may use the machine's own root. Raises CgroupsUnavailable."""
        hierarchy = next((each for each in found if each.unified), None)
        if hierarchy is None:
            raise CgroupsUnavailable("no cgroup hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup")
        if not hierarchy.writable:
            raise CgroupsUnavailable(f"{hierarchy.mount} is mounted read-only: mount it read-write, or {DELEGATE}")
        own = hierarchy.own.parent if hierarchy.own.name == PLATFORM else hierarchy.own
        top = own if _delegated(own, hierarchy.mount) else hierarchy.mount
        if top != own and not root:
            raise CgroupsUnavailable(f"the cgroup {own} is not delegated to this user: {DELEGATE}")
        if not os.access(top, os.W_OK) or not os.access(top / "cgroup.subtree_control", os.W_OK):
            raise CgroupsUnavailable(f"the cgroup {top} is not writable: {DELEGATE}")
        lacking = {"memory", "pids"} - set(read(top / "cgroup.controllers").split())
        if lacking:
            raise CgroupsUnavailable(
                f"the cgroup {top} has no {' and no '.join(sorted(lacking))} controller: {DELEGATE}"
            )
        return cls(name=name, top=top, mount=hierarchy.mount)

    @classmethod
    def described(cls, fields: dict[str, Any]) -> TreeV2:
        """The same tree from `describe`."""
        return cls(name=fields["name"], top=Path(fields["top"]), mount=Path(fields["mount"]))

    def describe(self) -> dict[str, Any]:
        return {"version": "v2", "name": self.name, "top": str(self.top), "mount": str(self.mount)}

    @property
    def cpu_shared(self) -> bool:
        return "cpu" in read(self.top / "cgroup.controllers").split()

    @property
    def home(self) -> Path:
        return self.top / self.name

    @property
    def homes(self) -> list[Path]:
        return [self.home]

    @property
    def mounts(self) -> list[Path]:
        return [self.mount]

    def prepare(self) -> None:
        if (self.top / "cgroup.type").exists():  # the real root has no type and may keep its processes
            self._move_platform()
        _hand_down(self.top)
        self.directories.make(self.home)
        _hand_down(self.home)
        with contextlib.suppress(FileNotFoundError):
            write(self.home / "cpu.weight", CPU_WEIGHT)

    def _move_platform(self) -> None:
        leaf = self.top / PLATFORM
        self.directories.make(leaf)
        for _ in range(8):  # a process may fork while the list is read
            pids = pids_in(self.top)
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    write(leaf / "cgroup.procs", pid)
        raise CgroupsUnavailable(f"processes stay in {self.top}: start the spot in a cgroup of its own")

    def sandbox(self, name: str, *, memory_mb: int, pids: int) -> GroupV2:
        group = GroupV2(directory=self.home / name, directories=self.directories)
        self.directories.make(group.directory)
        try:
            limit(group.directory, memory_mb, pids)
        except OSError:
            group.remove()
            raise
        return group

    def slot(self, name: str) -> SlotV2:
        directory = self.home / name
        self.directories.make(directory)
        return SlotV2(directory, self.directories)


@dataclass(slots=True, kw_only=True)
class GroupV2:
    """A sandbox's group. Its runs are in their slots; they die with the zygote, the init of their pid namespaces."""

    directory: Path
    directories: Directories

    def attach(self, pid: int) -> None:
        write(self.directory / "cgroup.procs", pid)

    @property
    def leaf(self) -> Path:
        return self.directory

    @property
    def tasks(self) -> list[Path]:
        return []

    def oom_kills(self) -> int:
        return counter(read(self.directory / "memory.events"), "oom_kill")

    def kill(self) -> None:
        kill(self.directory)

    def populated(self) -> bool:
        return counter(read(self.directory / "cgroup.events"), "populated") == 1

    def remove(self) -> bool:
        self.kill()
        if not wait_empty(lambda: bool(pids_in(self.directory))):
            return False
        return self.directories.remove(self.directory)


class SlotV2:
    """A run's group."""

    def __init__(self, directory: Path, directories: Directories) -> None:
        self._directory, self._directories = directory, directories
        self._limits: tuple[int, int] | None = None
        self._oom_before = self._cpu_before = 0
        self._opened: list[int] = []
        self.files = [self._open("cgroup.procs", os.O_WRONLY)]
        os.fchmod(self.files[0], 0o600)
        self._events = self._open("cgroup.events", os.O_RDONLY)
        self._memory_events = self._open("memory.events", os.O_RDONLY)
        self._usage = self._open("memory.current", os.O_RDONLY)
        self._cpu = self._open("cpu.stat", os.O_RDONLY)
        self._peak = self._open_peak()
        self._fresh = True

    def _open(self, name: str, flags: int) -> int:
        descriptor = os.open(self._directory / name, flags | os.O_CLOEXEC)
        self._opened.append(descriptor)
        return descriptor

    def _open_peak(self) -> int | None:
        """memory.peak: since Linux 5.19, and only since 6.12 writable (the reset counts for this descriptor alone)."""
        for flags in (os.O_RDWR, os.O_RDONLY):
            with contextlib.suppress(FileNotFoundError, PermissionError):
                return self._open("memory.peak", flags)
        return None

    def prepare(self, limits: Limits) -> bool:
        if self.populated() or int(reread(self._usage)) > RESIDUE or not (self._reset_peak() or self._fresh):
            return False
        self._fresh = False
        if self._limits != (limits.memory, limits.pids):
            limit(self._directory, limits.memory, limits.pids)
            self._limits = (limits.memory, limits.pids)
        self._oom_before = counter(reread(self._memory_events), "oom_kill")
        self._cpu_before = counter(reread(self._cpu), "usage_usec")
        return True

    def _reset_peak(self) -> bool:
        if self._peak is None:
            return True
        try:
            os.pwrite(self._peak, b"reset\n", 0)
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.EINVAL, errno.EOPNOTSUPP):
                raise
            return False
        return True

    def oom_kills(self) -> int:
        return counter(reread(self._memory_events), "oom_kill") - self._oom_before

    def peak_mb(self) -> float | None:
        return None if self._peak is None else int(reread(self._peak)) / MEGABYTE

    def cpu_ms(self) -> float | None:
        return (counter(reread(self._cpu), "usage_usec") - self._cpu_before) / 1e3

    def populated(self) -> bool:
        return counter(reread(self._events), "populated") == 1

    def kill(self) -> None:
        if not (self._directory / "cgroup.kill").exists():
            self._limits = None  # the other way of killing leaves pids.max at 0
        kill(self._directory)

    def close(self) -> bool:
        for descriptor in self._opened:
            os.close(descriptor)
        self._opened = []
        if pids_in(self._directory):
            kill(self._directory)
            wait_empty(lambda: bool(pids_in(self._directory)))
        return self._directories.remove(self._directory)


def limit(directory: Path, memory_mb: int, pids: int) -> None:
    """Limit memory without a way out to swap, and processes. An out of memory ends the whole group, not one of it."""
    write(directory / "memory.max", memory_mb * MEGABYTE)
    for name, value in (("memory.swap.max", 0), ("memory.oom.group", 1)):
        with contextlib.suppress(FileNotFoundError):  # a kernel without swap accounting; before 4.19
            write(directory / name, value)
    write(directory / "pids.max", pids)


def _hand_down(directory: Path) -> None:
    """Enable the controllers for the groups below; cpu only where it may be had."""
    enabled = set(read(directory / "cgroup.subtree_control").split())
    if not {"memory", "pids"} <= enabled:
        try:
            write(directory / "cgroup.subtree_control", "+memory +pids")
        except OSError as error:
            raise CgroupsUnavailable(
                f"the controllers cannot be handed down from {directory} ({error.strerror}): {DELEGATE}"
            ) from error
    if "cpu" in set(read(directory / "cgroup.controllers").split()) - enabled:
        with contextlib.suppress(OSError):  # refused while a real-time process lives outside the root
            write(directory / "cgroup.subtree_control", "+cpu")


def _delegated(own: Path, mount: Path) -> bool:
    """Whether the group was given to us: marked so by systemd, ours by owner, or made for our container."""
    for attribute in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            return os.getxattr(own, attribute) == b"1"
    if own == mount or container.found() is not None:
        return True
    return os.geteuid() != 0 and own.stat().st_uid == os.geteuid()
