"""How much memory a run takes, looked at from outside, where no cgroup counts it (the `rlimit` grade).

Everything that a hostile run can make the kernel hold is charged: pages of every process, page tables, kernel stacks,
mappings, files in its tmpfs, and what lies in pipes and sockets, at their maximum where it cannot be read.
All of a run's processes descend from the init of its pid namespace: orphans are handed to it.
"""

from __future__ import annotations

import itertools
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

MEGABYTE = 2**20
FREE_DESCRIPTORS = 32
"""Pipes and sockets that are not charged, each: what subprocesses, pools and event loops need."""
HIDDEN_DESCRIPTORS = 4096
"""Pipes charged for a living process that does not let its descriptors be read."""
THREAD_BYTES = 32 * 1024
"""Kernel stack and task of one thread."""
MAPPING_BYTES = 512
"""What the kernel keeps for one mapping, with its share of tree nodes and reverse maps."""
MAPPINGS_EVERY = 8
"""Polls between two counts of the mappings, which cost more to read than all else."""
MAPPINGS_READ = MEGABYTE
"""Text read of a list of mappings. A longer one counts as `MAPPINGS_MOST`, the kernel's own limit."""
MAPPINGS_MOST = 65_536
PIPE_BYTES = 16 * mmap.PAGESIZE
SYSCTL_DEFAULTS = {
    "fs/pipe-user-pages-soft": 16384,
    "fs/pipe-max-size": MEGABYTE,
    "net/core/wmem_default": 212_992,
    "net/core/wmem_max": 212_992,
}

_STATUS = re.compile(rb"^(RssAnon|RssShmem|VmPTE|VmSwap|Threads):\s+(\d+)", re.MULTILINE)
_NUMBERS = re.compile(rb"^NSpid:((?:\s+\d+)+)", re.MULTILINE)
_PSS = re.compile(rb"^(Pss_Anon|Pss_Shmem|SwapPss|Private_Clean|Private_Dirty):\s+(\d+)", re.MULTILINE)
_MAPPING = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) (\S+) (\d+)", re.MULTILINE)
_QUEUES = re.compile(rb" ([0-9A-F]{8}):([0-9A-F]{8}) \d\d:[0-9A-F]{8} ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """Bytes: of the processes themselves, of files in /tmp and /dev/shm, of buffers and mappings in the kernel."""

    processes: int = 0
    files: int = 0
    kernel: int = 0

    @property
    def total(self) -> int:
        return self.processes + self.files + self.kernel

    def __str__(self) -> str:
        parts = ("processes", self.processes), ("files in /tmp and /dev/shm", self.files), ("buffers", self.kernel)
        return ", ".join(f"{name} {size / MEGABYTE:.0f} MB" for name, size in parts)


class MemoryWatch:
    """Adds up what a run's process tree costs the host. Poll it every 20 to 50 ms and kill the run above its limit."""

    def __init__(self, pid: int, *, fixed_buffers: bool = False) -> None:
        """`pid`: the run's init (pid 1 of its pid namespace) as this process sees it.

        `fixed_buffers`: the run cannot enlarge pipes and sockets (its seccomp filter takes F_SETPIPE_SZ and SO_SNDBUF
        from it), so each is charged its default size and not its maximum.

        Raises ProcessLookupError if it is gone or dying. Raises PermissionError or FileNotFoundError if its descriptors
        or children cannot be counted: such a run must not go on.
        """
        self._pid = pid
        self._fixed_buffers = fixed_buffers
        self._init = -1
        try:
            # The directory stays that of this process when its number is used again.
            self._init = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._check()
        except (FileNotFoundError, ProcessLookupError) as error:
            self.close()
            if os.path.exists(f"/proc/{pid}/task/{pid}"):
                raise FileNotFoundError(f"/proc/{pid} does not tell its children: CONFIG_PROC_CHILDREN") from error
            raise ProcessLookupError(f"process {pid} is gone") from error
        except PermissionError:
            self.close()
            if _living(pid):
                raise
            # What is dying has no memory any more, and the kernel gives its files to root.
            raise ProcessLookupError(f"process {pid} is dying") from None
        self._tasks = 0
        self._peak = 0.0
        self.last = Charge()
        self._cpu_ms = 0.0
        self._polls = 0
        self._mappings = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the process' directory."""
        if self._init >= 0:
            os.close(self._init)
            self._init = -1

    def charged_mb(self, limit_mb: int) -> float:
        """Megabytes charged now; 0.0 when the run is gone. Exact only above `limit_mb`, below it a quick upper bound.

        The bound counts a page that processes share, from the zygote or among each other, once for each of them.
        """
        charge = self._charge(limit_mb * MEGABYTE)
        if charge.total > limit_mb * MEGABYTE:
            # Nothing in /proc holds still: what ends or begins between two reads must not end a run. So once more.
            charge = min(charge, self._charge(limit_mb * MEGABYTE), key=lambda each: each.total)
        self.last = charge
        self._peak = max(self._peak, charge.total / MEGABYTE)
        return charge.total / MEGABYTE

    def _check(self) -> None:
        """Raise OSError if it cannot be counted."""
        _read(f"/proc/{self._pid}/task/{self._pid}/children")
        os.listdir(f"/proc/{self._pid}/fd")

    def _charge(self, limit: int) -> Charge:
        """What is charged now, `limit` in bytes."""
        processes = list(self._processes())
        if not processes:
            self._tasks = 0
            return Charge()
        if self._polls % MAPPINGS_EVERY == 0:
            self._mappings = sum(_mappings(pid) for pid in processes)
        self._polls += 1
        kernel = self._buffers(processes) + self._mappings * MAPPING_BYTES
        files = self._tmpfs(processes)
        processes_own = self._resident(processes)
        if kernel + files + processes_own > limit:
            processes_own = self._exact(processes)
        if next(iter(self._processes()), None) is None:
            return Charge()
        return Charge(processes=processes_own, files=files, kernel=kernel)

    def tasks(self) -> int:
        """Processes and threads of the run, as of the last `charged_mb`."""
        return self._tasks

    def peak_mb(self) -> float:
        """The highest sum seen so far."""
        return self._peak

    def cpu_ms(self) -> float:
        """Processor time of the living and of those that were waited for; the last value once the run is gone."""
        ticks = 0
        for pid in self._processes():
            fields = _read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
            ticks += sum(map(int, fields[11:15]))
        self._cpu_ms = max(self._cpu_ms, ticks * 1000 / os.sysconf("SC_CLK_TCK"))
        return self._cpu_ms

    def _processes(self) -> Iterator[int]:
        """The init and all that descend from it. A process that is born or dies meanwhile may be missed this time.

        Each as the number of one of its threads: the first may have ended before the others, and tells nothing then.
        """
        try:
            os.stat("stat", dir_fd=self._init)
        except OSError:
            return
        pending, seen = [self._pid], {self._pid}
        while pending:
            pid = pending.pop()
            tasks = _entries(f"/proc/{pid}/task")
            yield pid if len(tasks) < 2 or _living(pid) else next(filter(_living, map(int, tasks)), pid)
            for task in tasks:
                born = {int(child) for child in _read(f"/proc/{pid}/task/{task}/children").split()}
                pending.extend(born - seen)
                seen |= born

    def _resident(self, processes: Iterable[int]) -> int:
        """Bytes of memory and kernel stacks by the processes' own counters."""
        kilobytes = tasks = 0
        for pid in processes:
            values = {name: int(value) for name, value in _STATUS.findall(_read(f"/proc/{pid}/status"))}
            tasks += values.pop(b"Threads", 0)
            kilobytes += sum(values.values())
        self._tasks = tasks
        return kilobytes * 1024 + tasks * THREAD_BYTES

    def _exact(self, processes: list[int]) -> int:
        """The same by the page. What a single process shares, it shares with the zygote: the import has paid for it.

        Of several nobody can tell whether they share it with the zygote or among each other.
        """
        if processes == [self._pid]:
            own = _proportional(processes, alone=True)
            if processes == list(self._processes()):
                return own
        return _proportional(processes)

    def _buffers(self, processes: Iterable[int]) -> int:
        """Bytes that may lie in pipes and sockets."""
        pipes: set[str] = set()
        hidden = 0
        for pid in processes:
            try:
                if _descriptors(pid) > FREE_DESCRIPTORS:
                    pipes.update(name for name in _links(f"/proc/{pid}/fd") if name.startswith("pipe:"))
            except PermissionError:
                hidden += HIDDEN_DESCRIPTORS * _living(pid)
        return _pipe_bytes(len(pipes) + hidden - FREE_DESCRIPTORS, fixed=self._fixed_buffers) + self._sockets()

    def _sockets(self) -> int:
        """Bytes that may lie in sockets."""
        return _socket_bytes(f"/proc/{self._pid}/net", fixed=self._fixed_buffers)

    def _tmpfs(self, _: Iterable[int]) -> int:
        """Bytes in the run's /tmp and /dev/shm."""
        return _tmpfs_bytes(self._init, set(_our_devices()))


class SandboxWatch(MemoryWatch):
    """Adds up what a whole sandbox costs the host: its zygote, what the import has started there, and all runs."""

    def __init__(self, pid: int, *, runs: bool = True) -> None:
        """`pid`: the sandbox's holder. It and the init below it are ours and are not charged.

        `runs`: charge also what is in pid namespaces below the zygote's, and the sockets, which could be of either.

        Raises ProcessLookupError if it is gone, FileNotFoundError if its children cannot be counted.
        """
        super().__init__(pid, fixed_buffers=True)
        self._runs = runs

    def alive(self) -> bool:
        """Whether the holder, and with it the sandbox, still lives."""
        return next(super()._processes(), None) is not None

    def _check(self) -> None:
        _read(f"/proc/{self._pid}/task/{self._pid}/children")

    def _processes(self) -> Iterator[int]:
        # First come the holder, and its only child: the init.
        below = itertools.islice(super()._processes(), 2, None)
        if self._runs:
            return below
        depth = _depth(self._pid) + 1
        return (pid for pid in below if _depth(pid) == depth)

    def _exact(self, processes: list[int]) -> int:
        return _proportional(processes)

    def _sockets(self) -> int:
        return super()._sockets() if self._runs else 0

    def _tmpfs(self, processes: Iterable[int]) -> int:
        """Bytes in each /tmp and /dev/shm that one of the processes sees."""
        used, seen = 0, set(_our_devices())
        for pid in processes:
            try:
                directory = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:  # it has ended
                continue
            try:
                used += _tmpfs_bytes(directory, seen)
            finally:
                os.close(directory)
        return used


def _depth(pid: int) -> int:
    """How many pid namespaces the process is in; 0 if it is gone."""
    numbers = _NUMBERS.search(_read(f"/proc/{pid}/status"))
    return len(numbers[1].split()) if numbers else 0


def _tmpfs_bytes(process: int, seen: set[int]) -> int:
    """Bytes in the /tmp and /dev/shm of a process (a descriptor of its /proc directory), if not on devices in `seen`.

    They are mounts in a read-only root: no path leads astray. Adds their devices to `seen`.
    """
    used = 0
    for place in ("root/tmp", "root/dev/shm"):
        try:
            directory = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=process)
        except OSError:  # gone, or a run without a root of its own
            continue
        try:
            device = os.fstat(directory).st_dev
            if device not in seen:
                sizes = os.fstatvfs(directory)
                used += (sizes.f_blocks - sizes.f_bfree) * sizes.f_frsize
                seen.add(device)
        finally:
            os.close(directory)
    return used


def _proportional(processes: Iterable[int], *, alone: bool = False) -> int:
    """Bytes of memory with each shared page counted once among those that share it. `alone`: without shared pages.

    Shared memory without a name is charged here; with a name it lies in a tmpfs, which is charged as such.
    """
    anonymous = shared = tables = 0
    unnamed: dict[bytes, int] = {}
    for pid in processes:
        values = {name: int(value) * 1024 for name, value in _PSS.findall(_read(f"/proc/{pid}/smaps_rollup"))}
        own = values.get(b"Pss_Anon", 0)
        if alone:  # clean pages of files that nobody else has mapped are in it, too
            own = min(own, values.get(b"Private_Clean", 0) + values.get(b"Private_Dirty", 0))
        anonymous += own + values.get(b"SwapPss", 0)
        shared += values.get(b"Pss_Shmem", 0)
        status = {name: int(value) for name, value in _STATUS.findall(_read(f"/proc/{pid}/status"))}
        tables += status.get(b"VmPTE", 0) * 1024 + status.get(b"Threads", 0) * THREAD_BYTES
        if not values:  # it hides them, or is dying and has no more in its status either
            anonymous += 1024 * sum(status.get(name, 0) for name in (b"RssAnon", b"RssShmem", b"VmSwap"))
        if values.get(b"Pss_Shmem"):
            for start, end, offset, device, inode in _MAPPING.findall(_read(f"/proc/{pid}/maps")):
                if device == _unnamed_device():
                    size = int(offset, 16) + int(end, 16) - int(start, 16)
                    unnamed[inode] = max(unnamed.get(inode, 0), size)
    return anonymous + tables + min(shared, sum(unnamed.values()))


def _pipe_bytes(count: int, *, fixed: bool) -> int:
    """The most that so many pipes can hold: each its maximum, until the user's allowance makes new ones small."""
    if count <= 0:
        return 0
    allowance = _setting("fs/pipe-user-pages-soft") * mmap.PAGESIZE
    most = count * (PIPE_BYTES if fixed else _setting("fs/pipe-max-size"))
    return min(most, allowance + count * 2 * mmap.PAGESIZE) if allowance else most


def _socket_bytes(net: str, *, fixed: bool) -> int:
    """What the sockets of a network namespace can hold, those in flight inside other sockets too.

    The namespace is the sandbox's: concurrent runs of one deployment are charged each other's.
    """
    used = re.search(rb"sockets: used (\d+)", _read(f"{net}/sockstat"))
    if used is None or int(used[1]) <= FREE_DESCRIPTORS:
        return 0
    queued = 0
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        # Twice the bytes: the kernel keeps small packets in larger buffers.
        queued += 2 * sum(int(sent, 16) + int(got, 16) for sent, got in _QUEUES.findall(_read(f"{net}/{protocol}")))
    unix = _read(f"{net}/unix").count(b"\n") - 1 - FREE_DESCRIPTORS
    # The sender of a packet pays for it, and may pass its allowance by one packet. SO_SNDBUF doubles what is asked for.
    each = 2 * _setting("net/core/wmem_default" if fixed else "net/core/wmem_max")
    return queued + max(unix, 0) * each


def _living(pid: int) -> bool:
    """Whether a thread has memory: one that is dying, or dead and not waited for, has none."""
    text = _read(f"/proc/{pid}/statm")
    return bool(text) and not text.startswith(b"0 ")


def _mappings(pid: int) -> int:
    """How many mappings a process has."""
    text = _read(f"/proc/{pid}/maps", MAPPINGS_READ)
    return MAPPINGS_MOST if len(text) >= MAPPINGS_READ else text.count(b"\n")


def _descriptors(pid: int) -> int:
    """How many descriptors a process has open. Raises PermissionError if it hides them.

    The size of the directory tells since Linux 6.2, also of one that cannot be listed.
    """
    try:
        return os.stat(f"/proc/{pid}/fd").st_size or len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _links(directory: str) -> Iterator[str]:
    for name in _entries(directory):
        try:
            yield os.readlink(f"{directory}/{name}")
        except OSError:
            continue


def _entries(directory: str) -> list[str]:
    """The names in a /proc directory; none if its process is gone. Raises PermissionError."""
    try:
        return os.listdir(directory)
    except (FileNotFoundError, ProcessLookupError):
        return []


def _read(path: str, most: int = 16 * MEGABYTE) -> bytes:
    """The bytes of a /proc file, at most so many; none if its process is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # a zombie's files refuse everyone but root
        return b""
    try:
        parts = []
        while most > 0 and (part := os.read(descriptor, min(most, 65536))):
            parts.append(part)
            most -= len(part)
        return b"".join(parts)
    except ProcessLookupError:
        return b""
    finally:
        os.close(descriptor)


@cache
def _setting(name: str) -> int:
    """A sysctl, which this process reads once. Where it is not shown, the kernel's default."""
    path = Path("/proc/sys") / name
    return int(path.read_text()) if path.exists() else SYSCTL_DEFAULTS[name]


@cache
def _our_devices() -> frozenset[int]:
    """File systems of this process: a run that shares them (no root of its own) is not charged for them."""
    return frozenset(os.stat(place).st_dev for place in ("/", "/tmp", "/dev/shm") if os.path.isdir(place))  # noqa: S108


@cache
def _unnamed_device() -> bytes:
    """The device, as /proc/PID/maps writes it, on which the kernel keeps shared memory without a name."""
    with mmap.mmap(-1, mmap.PAGESIZE):
        for line in _read("/proc/self/maps").splitlines():
            if line.endswith(b"/dev/zero (deleted)"):
                return line.split()[3]
    return b""
