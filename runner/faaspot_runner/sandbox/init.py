"""What a sandbox's pid 1 does once the program runs: bury orphans, and make the mounts of the zygote's runs.

A zygote executes hostile code with the capabilities that new pid, mount and ipc namespaces need, so no system call that
mounts is left to it (`seccomp`). Its children ask here. What they get is always the same, and once for each pid
namespace: a fresh /tmp and /dev/shm with a size, and a /proc of their own. Where the kernel makes a /proc for a pid
namespace that it is told (Linux 6.18), the init steps into the asker's mount namespace for the length of three mounts.
Elsewhere they are made by a process of ours, forked into the asker's namespaces: it is nobody's to look into, and dead
before the asker is answered. That fork costs more than the rest of a run's mounts together.

::

    child -> init   {"op": "mount", "pid": n as the sandbox sees it} + one descriptor: where the answer goes
    init -> child   {"op": "mounted"} | {"op": "refused", "errno": n, "message": ...}

What is mounted ends with its run unless hostile code keeps a file of it open elsewhere, where nothing would count the
memory any more. A watch on each file system tells when it really ends; until then there is no next one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any, NoReturn

from faaspot_runner.agent import syscalls as kernel
from faaspot_runner.agent import wire
from faaspot_runner.sandbox.mounts import TMPFS, mount_fresh
from faaspot_runner.sandbox.syscalls import IN_DELETE_SELF, IN_IGNORED, inotify_add_watch, inotify_init

CAPS = (kernel.CAP_SYS_CHROOT, kernel.CAP_SYS_PTRACE, kernel.CAP_SYS_ADMIN)
"""What entering a run's namespaces takes, in the user namespace of the zygote."""
MOUNT_SECONDS = 2.0
"""How long the three mounts may take: whoever asks for them may stop the process that makes them."""
END_SECONDS = 2.0
"""How long the file systems of ended runs may take to end; the kernel needs a few milliseconds."""
_EVENT = struct.Struct("iIII")


@dataclass
class _Given:
    """The mounts of one run. `files`: the watches of its file systems that have not ended."""

    pid: int
    pidfd: int
    files: set[int]


class Init:
    """`control`: the channel to the spot. `requests`: what the zygote's children ask on.

    `watched`: no cgroup counts what lies in a tmpfs, so each one's end must be seen before there is another.
    """

    def __init__(
        self, program: int, control: socket.socket, requests: socket.socket, *, tmp_mb: int, watched: bool
    ) -> None:
        """Raises OSError."""
        self._program = program
        self._control = control
        self._requests = requests
        self._tmp_mb = tmp_mb
        self._given: list[_Given] = []
        self._inotify = inotify_init() if watched else -1
        self._own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._own_mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._steps_in = True
        """Whether the kernel can make another pid namespace's /proc, as far as was seen."""

    def serve(self) -> None:
        """Until the program ends; tell how. The kernel then kills what is left in the namespace."""
        deaths, deaths_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(deaths_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(deaths, select.POLLIN)
        poll.register(self._requests, select.POLLIN)
        while (status := self._buried()) is None:
            for fd, _ in poll.poll():
                if fd == deaths:
                    os.read(deaths, 4096)
                elif not self._hear():
                    poll.unregister(fd)
        wire.send(self._control, {"op": "ended", "status": status})

    def _buried(self) -> int | None:
        """Wait for all who are dead; the program's status if it is among them."""
        with contextlib.suppress(ChildProcessError):
            while (got := os.waitpid(-1, os.WNOHANG))[0]:
                if got[0] == self._program:
                    return got[1]
        return None

    # ------------------------------------------------------------ requests

    def _hear(self) -> bool:
        """Answer one request. False when there will be no more."""
        try:
            got = wire.receive(self._requests, 1)
        except wire.WireError:
            return True
        except OSError:
            got = None
        if got is None:
            return False
        message, fds = got
        try:
            answer = self._answer(message.get("pid"))
            for fd in fds:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
                    sock.setblocking(False)
                    wire.send(sock, answer)
        finally:
            wire.close(fds)
        return True

    def _answer(self, pid: object) -> dict[str, Any]:
        try:
            self._give(pid if isinstance(pid, int) else -1)
        except OSError as error:
            return {"op": "refused", "errno": error.errno or 0, "message": str(error)}
        return {"op": "mounted"}

    def _give(self, pid: int) -> None:
        """Make the mounts of that process' namespaces. Raises OSError, also for one that must not have any."""
        self._see_ends()
        pidfd = kernel.pidfd_open(pid)
        try:
            if not _first_of_its_own(pid) or any(each.pid == pid for each in self._given):
                raise OSError(errno.EPERM, "only the first process of a pid namespace is given mounts, and once")
            self._given.append(_Given(pid, pidfd, self._mounted(pid, pidfd)))
        except OSError:
            os.close(pidfd)
            raise

    # ------------------------------------------------------------ file systems

    def _mounted(self, pid: int, pidfd: int) -> set[int]:
        """Make the mounts in those namespaces; the watches of their file systems. Raises OSError."""
        if self._steps_in:
            try:
                return self._stepped_in(pid, pidfd)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # An option that this kernel does not know. What was mounted already is covered by the next ones.
                self._steps_in = False
        return self._by_maker(pidfd)

    def _stepped_in(self, pid: int, pidfd: int) -> set[int]:
        """In this very process, which cannot be seen, stopped or traced from where it steps into."""
        namespace = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _ready(pidfd):  # it is dead, and its number may be another's
                raise OSError(errno.ESRCH, "the process that asked for mounts is dead")
            kernel.setns(pidfd, kernel.CLONE_NEWNS)
            try:
                return _make(self._tmp_mb, self._inotify, f"/proc/self/fd/{namespace}")
            finally:
                self._step_back()
        finally:
            os.close(namespace)

    def _step_back(self) -> None:
        try:
            kernel.setns(self._own_mounts, kernel.CLONE_NEWNS)
        except OSError:
            os._exit(1)  # among mounts that are not ours nothing may go on; the sandbox ends with us

    def _by_maker(self, pidfd: int) -> set[int]:
        """Have the mounts made by a process in those namespaces."""
        told, told_write = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                maker = self._fork_into(pidfd)
                if maker == 0:
                    _make_and_end(pidfd, self._tmp_mb, self._inotify, told_write)
            finally:
                os.close(told_write)
            status = _end_of(maker)
            data = os.read(told, 64)
        finally:
            os.close(told)
        if status != 0:
            raise OSError(status, f"the mounts of a run: {os.strerror(status)}")
        return set(struct.unpack(f"{len(data) // 4}i", data))

    def _fork_into(self, pidfd: int) -> int:
        kernel.setns(pidfd, kernel.CLONE_NEWPID)
        try:
            return os.fork()
        finally:
            if os.getpid() == 1:  # the forked one is at best second in a namespace of the sandbox
                kernel.setns(self._own_pid_namespace, kernel.CLONE_NEWPID)

    def _see_ends(self) -> None:
        """Forget runs that have ended whole. Raises OSError if a file system of one of them does not end in time."""
        deadline = time.monotonic() + END_SECONDS
        while True:
            ended = [each for each in self._given if _ready(each.pidfd)]
            while any(each.files for each in ended) and _ready(self._inotify):
                self._note_ends(os.read(self._inotify, 4096))
            left = [each for each in ended if each.files]
            for each in ended:
                if not each.files:
                    self._given.remove(each)
                    os.close(each.pidfd)
            if not left:
                return
            if not _ready(self._inotify, max(0.0, deadline - time.monotonic())):
                raise OSError(errno.EBUSY, "something still holds the files of a run that has ended")

    def _note_ends(self, events: bytes) -> None:
        for watch, mask, _, _ in _EVENT.iter_unpack(events):
            if mask & IN_IGNORED:
                for each in self._given:
                    each.files.discard(watch)


def _first_of_its_own(pid: int) -> bool:
    """Whether it is the first process of a pid namespace right below the sandbox's."""
    with open(f"/proc/{pid}/status", "rb") as file:
        numbers = next(line.split()[1:] for line in file if line.startswith(b"NSpid:"))
    return len(numbers) == 2 and numbers[1] == b"1"


def _make(tmp_mb: int, inotify: int, pid_namespace: str = "") -> set[int]:
    """The mounts, in the present mount namespace, and the watches of their file systems. Raises OSError."""
    mount_fresh("/", tmp_mb, pid_namespace)
    return {inotify_add_watch(inotify, place, IN_DELETE_SELF) for place in TMPFS} if inotify >= 0 else set()


def _make_and_end(pidfd: int, tmp_mb: int, inotify: int, told: int) -> NoReturn:
    """In the process that makes the mounts. It ends with the errno."""
    status = errno.EIO
    try:
        kernel.setns(pidfd, kernel.CLONE_NEWNS)
        watches = _make(tmp_mb, inotify)
        os.write(told, struct.pack(f"{len(watches)}i", *watches))
        status = 0
    except OSError as error:
        status = error.errno or errno.EIO
    finally:
        os._exit(status)


def _end_of(pid: int) -> int:
    """The exit status of a child of ours, EINTR if it did not come by itself."""
    pidfd = kernel.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(MOUNT_SECONDS * 1000):
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    finally:
        os.close(pidfd)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else errno.EINTR


def _ready(fd: int, seconds: float = 0.0) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
