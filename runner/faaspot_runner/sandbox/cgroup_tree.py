"""What both cgroup versions share: where the hierarchies are mounted, what a group can do, how one is killed.

`cgroups.py` is the door; `cgroup_v1.py` and `cgroup_v2.py` are the two implementations of `Tree`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from faaspot_runner.contract import Limits

MEGABYTE = 2**20
KILL_SECONDS = 5.0
"""How long a kill waits for the group to be empty: a task in an uninterruptible sleep outlives SIGKILL."""


class CgroupsUnavailable(Exception):
    """No cgroup can be used here; the text says why and what to do."""


class Group(Protocol):
    """A sandbox's own group: its zygote, the spare children and whatever a run leaves there."""

    def attach(self, pid: int) -> None:
        """Move a process, with all its threads, into the group. Raises ProcessLookupError if it is gone.

        The kernel stops all forks and waits for every processor, some 20 ms: what is launched comes in by `leaf` and
        `tasks` instead.
        """

    @property
    def leaf(self) -> Path | None:
        """The directory of its version 2 group, for `clone` into it."""

    @property
    def tasks(self) -> list[Path]:
        """Files of version 1: a process is in the group after it has written `0` into each."""

    def oom_kills(self) -> int:
        """Processes of the group that the kernel killed for memory so far: an import may need too much, too."""

    def kill(self) -> None:
        """Send SIGKILL to every process in the group; `populated` tells when they are gone."""

    def populated(self) -> bool:
        """Whether a process is left in it. A zombie does not count."""

    def remove(self) -> bool:
        """Kill what is left, wait for the deaths (at most `KILL_SECONDS`) and remove it. False: still populated."""


class RunSlot(Protocol):
    """The limits of one run, reused for the next run of the same sandbox.

    `files`: write-only descriptors into each of which the run's process writes ``b"0"`` to enter. They go to the
    zygote, which is untrusted: with them it can move only what it sees in its own pid namespace, into this slot only.
    """

    @property
    def files(self) -> list[int]: ...

    def oom_kills(self) -> int:
        """Processes that the kernel killed for memory since the slot was acquired."""

    def peak_mb(self) -> float | None:
        """Most memory at once since the slot was acquired, in megabytes; None where the kernel does not say."""

    def cpu_ms(self) -> float | None:
        """Processor time since the slot was acquired, of all its processes, dead ones too; None if not accounted."""

    def kill(self) -> None:
        """Send SIGKILL to every process in it. The run's own end is the death of its pid namespace's init."""

    def populated(self) -> bool:
        """Whether a process is left in it."""


class PooledSlot(RunSlot, Protocol):
    """What the pool does with a slot, beyond what its user may."""

    def prepare(self, limits: Limits) -> bool:
        """Write the limits if they changed and start the counters anew. False: it cannot be used again."""

    def close(self) -> bool:
        """Kill what is left and remove it. False: still populated."""


class Tree(Protocol):
    """One cgroup version. `home` is the directory that holds all groups of one spot, in each hierarchy in use."""

    @property
    def version(self) -> str: ...

    @property
    def cpu_shared(self) -> bool:
        """Whether sandboxes can be made to yield to the platform when all processors are busy."""

    @property
    def directories(self) -> Directories: ...

    @property
    def homes(self) -> list[Path]:
        """The spot's directory in each hierarchy in use."""

    @property
    def mounts(self) -> list[Path]:
        """Where those hierarchies are mounted: a dead spot may have left its directory elsewhere in them."""

    def prepare(self) -> None:
        """Make the homes. Raises CgroupsUnavailable or OSError."""

    def sandbox(self, name: str, *, memory_mb: int, pids: int) -> Group:
        """Make a sandbox's group. Raises OSError."""

    def slot(self, name: str) -> PooledSlot:
        """Make a run slot, without limits as yet. Raises OSError."""

    def describe(self) -> dict[str, Any]:
        """JSON fields from which another process makes the same tree."""


# ---------------------------------------------------------------- mounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """A mounted cgroup hierarchy. `own`: the directory of this process' own group, as seen in this mount."""

    mount: Path
    own: Path
    controllers: frozenset[str]
    unified: bool
    writable: bool


def hierarchies(proc: Path = Path("/proc/self"), member: Path | None = None) -> list[Hierarchy]:
    """Every cgroup hierarchy that this process can see, v1 and v2.

    `own` is then the group of `member`, a process as in `proc`, where that is another one.
    """
    memberships = dict(_memberships(((member or proc) / "cgroup").read_text()))
    found = []
    for line in (proc / "mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = (*rest.split(" "), "", "")[:3]
        if kind not in ("cgroup", "cgroup2"):
            continue
        _, _, _, root, point, flags, *_ = fields.split(" ")
        unified = kind == "cgroup2"
        group = _member_of(memberships, options, unified=unified)
        if group is None:
            continue
        mount = Path(_unescape(point))
        controllers = frozenset((mount / "cgroup.controllers").read_text().split()) if unified else group[0]
        found.append(
            Hierarchy(
                mount=mount,
                own=mount / _below(_unescape(root), group[1]),
                controllers=controllers,
                unified=unified,
                writable="rw" in flags.split(",") and "rw" in options.split(","),
            )
        )
    return found


def oom_kills(pid: int) -> int:
    """Processes of that one's group that the kernel killed for memory so far; 0 where nobody counts them."""
    kills = 0
    with contextlib.suppress(OSError):  # it is gone, and its group with it
        for each in hierarchies(member=Path(f"/proc/{pid}")):
            file = each.own / ("memory.events" if each.unified else "memory.oom_control")
            if (each.unified or "memory" in each.controllers) and file.exists():
                kills += counter(read(file), "oom_kill")
    return kills


def _memberships(text: str) -> Iterator[tuple[frozenset[str], str]]:
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers.startswith("name="):
            yield frozenset(filter(None, controllers.split(","))), path


def _member_of(
    memberships: dict[frozenset[str], str], options: str, *, unified: bool
) -> tuple[frozenset[str], str] | None:
    """Our line of /proc/self/cgroup for a mount; None for a hierarchy without controllers (name=systemd)."""
    if unified:
        return (frozenset(), memberships[frozenset()]) if frozenset() in memberships else None
    words = set(options.split(","))
    for controllers, path in memberships.items():
        if controllers and controllers <= words:
            return controllers, path
    return None


def _below(root: str, path: str) -> str:
    """Where `path` lies under a mount whose root is `root`: a container sees only a part of the hierarchy."""
    if root != "/" and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    elif "/.." in path or root != "/":  # outside what this mount (or cgroup namespace) shows: take the mount itself
        path = "/"
    return path.lstrip("/")


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


# ---------------------------------------------------------------- files and processes


def read(path: Path) -> str:
    """The text of a small cgroup file."""
    return path.read_text().strip()


def write(path: Path, value: object) -> None:
    """Write one value as one write call: the kernel takes each write as a whole. Never creates the file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def reread(descriptor: int) -> str:
    """The text of a cgroup file that is kept open."""
    return os.pread(descriptor, 4096, 0).decode()


def counter(text: str, name: str) -> int:
    """The number after `name` in a file of ``name number`` lines; 0 if it is not there."""
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def pids_in(directory: Path) -> list[int]:
    """The processes of a group; none if the group is gone."""
    try:
        return [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        return []


def kill_each(directory: Path) -> None:
    """SIGKILL every process of a group by pidfd, again until the list stays empty of living ones.

    A pid may be reused between the list and the signal, so the pidfd is opened first and the membership read again.
    """
    deadline = time.monotonic() + KILL_SECONDS
    while (pids := pids_in(directory)) and time.monotonic() < deadline:
        pidfds = list(_open_pidfds(pids))
        members = set(pids_in(directory))
        for pid, pidfd in pidfds:
            if pid in members:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _wait_any(pidfds, members)
        for _, pidfd in pidfds:
            os.close(pidfd)


def _open_pidfds(pids: list[int]) -> Iterator[tuple[int, int]]:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            yield pid, os.pidfd_open(pid)


def _wait_any(pidfds: list[tuple[int, int]], members: set[int]) -> None:
    deaths = select.poll()
    for pid, pidfd in pidfds:
        if pid in members:
            deaths.register(pidfd, select.POLLIN)
    deaths.poll(20)  # ms; a group whose members only left it has nothing to wait for


def wait_empty(populated: Callable[[], bool], seconds: float = KILL_SECONDS) -> bool:
    """Poll until nothing is left. False when the time is over first."""
    deadline = time.monotonic() + seconds
    pause = 0.0005
    while populated():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
    return True


class Directories:
    """How groups are made and unmade. cgroupfs fills a new directory with the group's files, and empties it with it."""

    def make(self, directory: Path) -> None:
        """Make one group; it may be there already."""
        directory.mkdir(mode=0o755, exist_ok=True)

    def remove(self, directory: Path) -> bool:
        """Remove an empty group; one that is gone is fine. False: it is populated.

        A dead task counts as a member until it is reaped from the group, a moment after its death was told.
        """
        return wait_empty(lambda: not self._gone(directory), seconds=1.0)

    def _gone(self, directory: Path) -> bool:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True


def kill(directory: Path) -> None:
    """SIGKILL everything in a group and below, at once where the kernel has cgroup.kill."""
    if (directory / "cgroup.kill").exists():
        with contextlib.suppress(OSError):  # removed meanwhile
            write(directory / "cgroup.kill", 1)
        return
    with contextlib.suppress(OSError):
        write(directory / "pids.max", 0)  # a fork bomb must not outrun the list; only there in the pids hierarchy
    kill_each(directory)


def destroy(directory: Path, directories: Directories) -> bool:
    """Kill what lives in a group and all below it, then remove them. False: something is left."""
    gone = [destroy(child, directories) for child in children(directory)]
    kill(directory)
    if not wait_empty(lambda: bool(pids_in(directory))):
        return False
    return all(gone) and directories.remove(directory)


def children(directory: Path) -> list[Path]:
    """The groups directly below; none if it is gone."""
    try:
        with os.scandir(directory) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def find(mount: Path, name: str) -> Iterator[Path]:
    """Every group called `name` in a hierarchy: the starter's own group changes from one start to the next."""
    pending = [mount]
    while pending:
        for child in children(pending.pop()):
            if child.name == name:
                yield child
            else:
                pending.append(child)
