"""Cgroup v1 controllers, with the v2 mount beside them for killing where there is one."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faaspot_runner.contract import Limits
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

CPU_SHARES = 512
"""Of all sandboxes together; an ordinary process beside them weighs 1024. Counts while all processors are busy."""

RESIDUE = 8 * MEGABYTE
"""A slot that still holds more than this (page cache of files that its runs read first) is not used again: the next
run's peak would begin there."""


@dataclass(slots=True, kw_only=True)
class TreeV1:
    """The homes of one spot, one for each hierarchy in use. `memory` and `pids` are always there."""

    name: str
    memory: Path
    pids: Path
    cpu: Path | None
    cpuacct: Path | None
    unified: Path | None
    mounts: list[Path]
    directories: Directories = field(default_factory=Directories)

    version = "v1"

    @classmethod
    def detect(cls, found: list[Hierarchy], name: str) -> TreeV1:
        """The tree of `name` below our own groups. Raises CgroupsUnavailable."""
        memory, pids = _controller(found, "memory"), _controller(found, "pids")
        if memory is None or pids is None:
            raise CgroupsUnavailable("cgroup v1 has no memory and pids controller mounted here")
        for hierarchy in (memory, pids):
            if not (hierarchy.writable and os.access(hierarchy.own, os.W_OK)):
                raise CgroupsUnavailable(
                    f"the cgroup {hierarchy.own} is not writable: run as root, or let root make a group there and give "
                    "it to this user (mkdir, chown, then start the spot inside it)"
                )
        cpu, cpuacct = _writable(_controller(found, "cpu")), _writable(_controller(found, "cpuacct"))
        unified = _writable(next((each for each in found if each.unified), None))
        used = [each for each in (memory, pids, cpu, cpuacct, unified) if each is not None]
        return cls(
            name=name,
            memory=memory.own / name,
            pids=pids.own / name,
            cpu=cpu.own / name if cpu else None,
            cpuacct=cpuacct.own / name if cpuacct else None,
            unified=unified.own / name if unified else None,
            mounts=list(dict.fromkeys(each.mount for each in used)),
        )

    @classmethod
    def described(cls, fields: dict[str, Any]) -> TreeV1:
        """The same tree from `describe`."""
        optional = {key: Path(fields[key]) if fields[key] else None for key in ("cpu", "cpuacct", "unified")}
        return cls(
            name=fields["name"],
            memory=Path(fields["memory"]),
            pids=Path(fields["pids"]),
            cpu=optional["cpu"],
            cpuacct=optional["cpuacct"],
            unified=optional["unified"],
            mounts=[Path(mount) for mount in fields["mounts"]],
        )

    def describe(self) -> dict[str, Any]:
        paths = {key: str(getattr(self, key) or "") for key in ("memory", "pids", "cpu", "cpuacct", "unified")}
        return {"version": "v1", "name": self.name, "mounts": [str(mount) for mount in self.mounts], **paths}

    @property
    def cpu_shared(self) -> bool:
        return self.cpu is not None

    @property
    def homes(self) -> list[Path]:
        return _distinct(self.memory, self.pids, self.cpu, self.cpuacct, self.unified)

    def prepare(self) -> None:
        for home in self.homes:
            self.directories.make(home)
        with contextlib.suppress(OSError):  # kernels since 5.11 always count the groups below, and some have no file
            write(self.memory / "memory.use_hierarchy", 1)
        if self.cpu is not None:
            write(self.cpu / "cpu.shares", CPU_SHARES)

    def sandbox(self, name: str, *, memory_mb: int, pids: int) -> GroupV1:
        parts = _distinct(self.memory, self.pids, self.cpu, self.unified)
        group = GroupV1(
            memory=self.memory / name,
            pids=self.pids / name,
            parts=[home / name for home in parts],
            unified=self.unified / name if self.unified else None,
            directories=self.directories,
        )
        try:
            for directory in group.parts:
                self.directories.make(directory)
            limit_memory(group.memory, memory_mb)
            write(group.pids / "pids.max", pids)
        except OSError:
            group.remove()
            raise
        return group

    def slot(self, name: str) -> SlotV1:
        parts = [home / name for home in _distinct(self.memory, self.pids, self.cpuacct)]
        for directory in parts:
            self.directories.make(directory)
        return SlotV1(
            memory=self.memory / name,
            pids=self.pids / name,
            cpuacct=self.cpuacct / name if self.cpuacct else None,
            parts=parts,
            directories=self.directories,
        )


@dataclass(slots=True, kw_only=True)
class GroupV1:
    """A sandbox's group in each hierarchy. Runs leave `memory` and `pids` for their slot, but never `unified`."""

    memory: Path
    pids: Path
    parts: list[Path]
    unified: Path | None
    directories: Directories

    def attach(self, pid: int) -> None:
        for directory in self.parts:
            write(directory / "cgroup.procs", pid)

    @property
    def leaf(self) -> Path | None:
        return self.unified

    @property
    def tasks(self) -> list[Path]:
        return [directory / "tasks" for directory in self.parts if directory != self.unified]

    def oom_kills(self) -> int:
        return counter(read(self.memory / "memory.oom_control"), "oom_kill")

    def kill(self) -> None:
        if self.unified is not None and (self.unified / "cgroup.kill").exists():
            kill(self.unified)
        else:
            kill(self.pids)

    def populated(self) -> bool:
        return any(pids_in(directory) for directory in self.parts)

    def remove(self) -> bool:
        self.kill()
        if not wait_empty(self.populated):
            return False
        return remove_all(self.parts, self.directories)


class SlotV1:
    """A run's group in the hierarchies that count: `tasks` files, because writing "0" there takes no global lock."""

    def __init__(
        self, *, memory: Path, pids: Path, cpuacct: Path | None, parts: list[Path], directories: Directories
    ) -> None:
        self._memory, self._pids, self._parts, self._directories = memory, pids, parts, directories
        self._limits: tuple[int, int] | None = None
        self._cpu_before = self._oom_before = 0
        self._opened: list[int] = []
        self.files = [self._open(directory / "tasks", os.O_WRONLY) for directory in parts]
        for descriptor in self.files:
            os.fchmod(descriptor, 0o600)  # opened anew through /proc/self/fd it must not show other processes' numbers
        self._count = self._open(pids / "pids.current", os.O_RDONLY)
        self._oom = self._open(memory / "memory.oom_control", os.O_RDONLY)
        self._usage = self._open(memory / "memory.usage_in_bytes", os.O_RDONLY)
        self._peak = self._open(memory / "memory.max_usage_in_bytes", os.O_RDWR)
        self._cpu = self._open(cpuacct / "cpuacct.usage", os.O_RDONLY) if cpuacct else None

    def _open(self, path: Path, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        self._opened.append(descriptor)
        return descriptor

    def prepare(self, limits: Limits) -> bool:
        if self.populated() or int(reread(self._usage)) > RESIDUE:
            return False
        if self._limits != (limits.memory, limits.pids):
            self._limits = None
            limit_memory(self._memory, limits.memory)
            write(self._pids / "pids.max", limits.pids)
            self._limits = (limits.memory, limits.pids)
        os.pwrite(self._peak, b"0", 0)
        self._oom_before = counter(reread(self._oom), "oom_kill")
        self._cpu_before = self._cpu_used()
        return True

    def oom_kills(self) -> int:
        return counter(reread(self._oom), "oom_kill") - self._oom_before

    def peak_mb(self) -> float | None:
        return int(reread(self._peak)) / MEGABYTE

    def cpu_ms(self) -> float | None:
        return None if self._cpu is None else (self._cpu_used() - self._cpu_before) / 1e6

    def _cpu_used(self) -> int:
        """Nanoseconds so far."""
        return 0 if self._cpu is None else int(reread(self._cpu))

    def populated(self) -> bool:
        # A list that is kept open repeats an old answer for a second; the count is fresh but counts unreaped ones.
        return int(reread(self._count)) > 0 and bool(pids_in(self._pids))

    def kill(self) -> None:
        self._limits = None  # the kill leaves pids.max at 0
        kill(self._pids)

    def close(self) -> bool:
        for descriptor in self._opened:
            os.close(descriptor)
        self._opened = []
        if pids_in(self._memory) or pids_in(self._pids):
            kill(self._pids)
            wait_empty(lambda: bool(pids_in(self._pids)))
        return remove_all(self._parts, self._directories)


def limit_memory(directory: Path, megabytes: int) -> None:
    """Limit memory, and memory with swap to the same, so that swap is no way out. tmpfs pages count as memory."""
    limit = megabytes * MEGABYTE
    plain, swap = directory / "memory.limit_in_bytes", directory / "memory.memsw.limit_in_bytes"
    files = [plain, swap] if swap.exists() else [plain]
    if int(read(plain)) < limit:
        files.reverse()  # the kernel refuses memory above memory + swap at any moment
    for file in files:
        write(file, limit)
    with contextlib.suppress(FileNotFoundError):  # TCP buffers are counted apart in v1
        write(directory / "memory.kmem.tcp.limit_in_bytes", limit)


def remove_all(parts: list[Path], directories: Directories) -> bool:
    """Remove a group from each hierarchy, from the others too when one is still populated."""
    return sum(directories.remove(directory) for directory in parts) == len(parts)


def _controller(found: list[Hierarchy], name: str) -> Hierarchy | None:
    return next((each for each in found if not each.unified and name in each.controllers), None)


def _writable(hierarchy: Hierarchy | None) -> Hierarchy | None:
    usable = hierarchy is not None and hierarchy.writable and os.access(hierarchy.own, os.W_OK)
    return hierarchy if usable else None


def _distinct(*paths: Path | None) -> list[Path]:
    """Without the missing ones, each once: cpu and cpuacct are usually one hierarchy."""
    return list(dict.fromkeys(path for path in paths if path is not None))
