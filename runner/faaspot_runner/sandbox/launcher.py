"""The launcher process: forks sandboxes. It holds the spot's privileges and never runs what a user wrote.

One launcher a spot, single-threaded, so that it may fork at any time. It reads requests from its spot and answers each
with the new sandbox's holder; when the spot goes away, it ends, and every sandbox with it. In a container it is the
program that runs there, as an ordinary user: so this module and what it imports keep to what CPython 3.8 accepts.

Inside a sandbox, this program, forked: the holder, pid 1 of the outer pid namespace, which builds the root and then
only waits; init (see `init`), pid 1 of the inner one; and as its pid 2 the program (an interpreter with the agent).
The inner user, pid and mount namespaces are below those that made the root: the kernel then locks what the mounts are
(read-only, nosuid, nodev), so that no capability which the program holds can change it. The zygote is not pid 1,
because libraries take an unchanged getpid for "not forked": its runs are always pid 1 of their own namespaces, and
would draw the same random numbers as the zygote.

::

    spot -> launcher   {"op": "launch", "fds": [names]} + descriptors; the one named "plan" holds the Plan as JSON
    launcher -> spot   {"op": "launched", "pid": n} + pidfd   |   {"op": "failed", "errno": n, "message": ...}
    sandbox -> spot    on "control": {"op": "failed", ...} if it could not be set up, then whatever the program says
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from dataclasses import dataclass, field
from typing import Any, NoReturn

from faaspot_runner.agent import __main__ as agent
from faaspot_runner.agent import syscalls as kernel
from faaspot_runner.agent import wire
from faaspot_runner.sandbox import init, mounts, namespaces
from faaspot_runner.sandbox.syscalls import clone, sethostname

NAMESPACES = kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
MOST_FDS = 16
PARENT_CHECK_MS = 1000
PROGRAM_FDS = ("null", "log", "log", "control")
"""What the program gets as 0, 1, 2 and 3; Plan.more follows."""
CONTROL = PROGRAM_FDS.index("control")
SPOT = 3
"""Descriptor of the spot's channel."""
is_base = False
"""Whether this is the interpreter of the functions, with the agent in it; see `base`."""
_born_there = True
"""Whether the kernel can clone into a cgroup (clone3), as far as was seen."""
_INIT = 2
"""The init's number for the holder, which is the first of its pid namespace."""
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


@dataclass(frozen=True)
class Plan:
    """What to launch. Descriptors that come with it: control, log, filter (the seccomp program), and as needed
    watched (another one, on top), net (a network namespace), leaf (the directory of a version 2 cgroup) and
    `tasks:NUMBER` (files of cgroups, into which the holder writes itself), `file:PATH` (its contents go there), and
    those of `more`, which the program gets from 4 on; code (a stream socket), by which the holder is given
    /code/main.py and one byte more when the sandbox stands already.

    Of `more`, "mounts" is made here: what a zygote's children ask the init on for the mounts of their runs.

    `uid_map`: None for an ordinary user. `libraries`: names in /python/lib that the system's loader must find.
    `argv`: of the program; without any it is not started but forked: the agent, where the launcher is a `base`.
    `rlimits`: (resource, soft, hard) for the program. `counted`: a cgroup counts the sandbox's memory.
    `image`: the system is an image's, all of which is shown. `own_network`: False where it shares the network of who
    launches it, which then is a container's own.
    """

    uid_map: str | None
    binds: list[list[str]]
    files: dict[str, str]
    links: dict[str, str]
    tmp_mb: int
    argv: list[str]
    environ: dict[str, str]
    executable: str
    rlimits: list[list[int]]
    counted: bool
    libraries: list[str] = field(default_factory=list)
    more: list[str] = field(default_factory=list)
    image: bool = False
    own_network: bool = True


class Stage(Exception):
    """Which step of the set-up failed, and how."""

    def __init__(self, stage: str, error: OSError) -> None:
        super().__init__(f"{stage}: {error.strerror or error}")
        self.stage = stage
        self.errno = error.errno or 0


def main() -> NoReturn:
    """Serve the spot on descriptor 3 until it goes away."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, SPOT)
    os.set_inheritable(SPOT, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the spot's to handle, and its end is ours
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for an init: the spot watches its pidfd
    parent = os.getppid()
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    while os.getppid() == parent:
        if not poll.poll(PARENT_CHECK_MS):
            continue
        got = wire.receive(sock, MOST_FDS)
        if got is None:
            break
        _serve(sock, *got)
    os._exit(0)


def _serve(sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
    named = dict(zip(message["fds"], fds))  # noqa: B905 (CPython 3.8)
    try:
        pid = _launch(Plan(**json.loads(_contents(named.pop("plan")))), named)
        pidfd = kernel.pidfd_open(pid)
    except OSError as error:
        wire.send(sock, {"op": "failed", "errno": error.errno or 0, "message": str(error)})
        return
    finally:
        wire.close(fds)
    wire.send(sock, {"op": "launched", "pid": pid}, [pidfd])
    os.close(pidfd)


def _launch(plan: Plan, fds: dict[str, int]) -> int:
    """Fork the holder of a new sandbox; it waits for its maps. Raises OSError."""
    self_fd = kernel.pidfd_open(os.getpid())
    maps_read, maps_write = os.pipe2(os.O_CLOEXEC)
    try:
        pid = _clone(fds, plan.own_network)
        if pid == 0:
            os.close(maps_write)
            _hold(plan, fds, maps_read, self_fd)
        try:
            namespaces.write_maps(pid, plan.uid_map)
            with open(f"/proc/{pid}/oom_score_adj", "w") as file:
                file.write("1000")
        except OSError:
            os.kill(pid, signal.SIGKILL)
            raise
        os.write(maps_write, b"m")
        return pid
    finally:
        wire.close([self_fd, maps_read, maps_write])


def _clone(fds: dict[str, int], own_network: bool) -> int:
    """Clone into new namespaces, but into that network if there is one: it belongs to the host's user namespace."""
    net, leaf = fds.get("net"), fds.get("leaf")
    if net is None:
        return _clone_into(leaf, NAMESPACES | (kernel.CLONE_NEWNET if own_network else 0))
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    kernel.setns(net, kernel.CLONE_NEWNET)
    try:
        return _clone_into(leaf, NAMESPACES)
    finally:
        # In the child, too, this is only the copy of the launcher's descriptor; but it stays where it is.
        if os.getpid() != 1:
            kernel.setns(own, kernel.CLONE_NEWNET)
        os.close(own)


def _clone_into(leaf: int | None, flags: int) -> int:
    """Clone into that cgroup; where a filter around us refuses the call, the holder goes there by itself."""
    global _born_there
    if leaf is not None and _born_there:
        try:
            return clone(flags, leaf)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            _born_there = False
    return clone(flags)


# ---------------------------------------------------------------- inside


def _hold(plan: Plan, fds: dict[str, int], maps: int, launcher: int) -> NoReturn:
    """The life of the outer pid 1: build the place, start the init, wait for its end. All dies with this process."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if os.read(maps, 1):
            root = _set_up(plan, fds, launcher)
            _arrange([fds["code"], root] if root >= 0 else [])
            kernel.capset(())
            if root >= 0:
                _await_code()
            os.wait()
    except Stage as failure:
        _report(fds["control"], failure)
    finally:
        os._exit(0)


def _await_code() -> None:
    """Write what comes on descriptor 0 to /code, in the root that descriptor 1 is, and say so; or the init ends."""
    ended = kernel.pidfd_open(_INIT)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(ended, select.POLLIN)
    poll.poll()
    parts = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, 0) as spot:
        while not select.select([ended], [], [], 0)[0] and (part := spot.recv(1 << 20)):
            parts.append(part)
        if parts:
            path = os.open("code/main.py", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444, dir_fd=1)
            with open(path, "wb") as file:
                file.write(b"".join(parts)[:-1])
            spot.sendall(b"w")
    os.close(1)


def _set_up(plan: Plan, fds: dict[str, int], launcher: int) -> int:
    """Everything between the clone and the init, which it starts. Raises Stage.

    Returns the root, by which the code can be written, -1 where the code is in it.
    """
    stage = "start"
    try:
        stage = "cgroup"
        _join_cgroups(fds)
        stage = "mount namespace"
        mounts.make_private()
        # Whatever the platform's is: the run is another uid than the one that makes the directories.
        os.umask(0o022)
        stage = "bind mounts"
        files = {path: data.encode() for path, data in plan.files.items()}
        files.update({name[5:]: _contents(fd) for name, fd in fds.items() if name.startswith("file:")})
        system = mounts.image_binds() if plan.image else mounts.system_binds()
        opened = mounts.open_binds([*system, *((source, target) for source, target in plan.binds)])
        opened += mounts.open_devices()
        stage = "uid change"
        _become_owner(plan.uid_map is not None)
        _die_with(launcher)
        stage = "cgroup namespace"
        kernel.unshare(kernel.CLONE_NEWCGROUP)
        stage = "hostname"
        sethostname("sandbox")
        if "net" not in fds and plan.own_network:
            stage = "loopback network"
            _loopback_up()
        stage = "root file system"
        links = {**(mounts.image_links() if plan.image else {}), **plan.links}
        root = mounts.build_root(opened, files, links, plan.libraries, plan.tmp_mb, writable="code" in fds)
        if root >= 0:
            os.mkdir("code", 0o755, dir_fd=root)
        stage = "second user namespace"
        _start_init(plan, fds)
        return root
    except OSError as error:
        raise Stage(stage, error) from None


def _join_cgroups(fds: dict[str, int]) -> None:
    """Into the groups in which this process was not born. Raises OSError."""
    tasks = [fd for name, fd in fds.items() if name.startswith("tasks:")]
    if "leaf" in fds and not _born_there:
        tasks.append(os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=fds["leaf"]))
    for each in tasks:
        os.write(each, b"0")


def _start_init(plan: Plan, fds: dict[str, int]) -> None:
    """Clone the init into namespaces below ours, where the kernel locks every mount as it is. Raises OSError."""
    filters = [_contents(fds[name]) for name in ("filter", "watched") if name in fds]
    maps_read, maps_write = os.pipe2(os.O_CLOEXEC)
    # The change of uid has made us and what we fork nobody's to look at, not ours either: until the maps are written.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    pid = clone(kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNS)
    if pid == 0:
        os.close(maps_write)
        _init(plan, fds, filters, maps_read)
    namespaces.write_same_maps(pid, mapped=plan.uid_map is not None)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    os.write(maps_write, b"m")


def _init(plan: Plan, fds: dict[str, int], filters: list[bytes], maps: int) -> NoReturn:
    """The life of the init: start the program and serve it until its end."""
    stage, control = "init", fds["control"]
    try:
        if not os.read(maps, 1):
            os._exit(0)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        mounts.mount_proc("/")
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        requests, theirs = (sock.detach() for sock in pair)
        program = os.fork()
        if program == 0:
            _exec(plan, {**fds, "mounts": theirs}, filters)
        _arrange([control, requests])
        control = 0
        kernel.capset(init.CAPS)
        told, asked = (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd) for fd in (0, 1))
        init.Init(program, told, asked, tmp_mb=plan.tmp_mb, watched=not plan.counted).serve()
    except OSError as error:
        _report(control, Stage(stage, error))
    finally:
        os._exit(0)


def _contents(fd: int) -> bytes:
    """The whole file of a descriptor, from its start whatever its position is."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _become_owner(mapped: bool) -> None:
    """From the spot's uid to the sandbox's own throw-away one. An ordinary user is it already."""
    if mapped:
        os.setgroups([])
        os.setresgid(namespaces.ROOT_INSIDE, namespaces.ROOT_INSIDE, namespaces.ROOT_INSIDE)
        os.setresuid(namespaces.ROOT_INSIDE, namespaces.ROOT_INSIDE, namespaces.ROOT_INSIDE)


def _die_with(launcher: int) -> None:
    """After the last change of uid, which clears it. A launcher that died before is seen by its pidfd."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([launcher], [], [], 0)[0]:
        raise OSError(errno.ESRCH, "the launcher is gone")


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("16xH", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[0]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _exec(plan: Plan, fds: dict[str, int], filters: list[bytes]) -> NoReturn:
    """In the program's process: give up what it must not have, then become it."""
    stage, control = "privileges", fds["control"]
    try:
        os.setsid()
        _keep_caps()
        for kind, soft, hard in plan.rlimits:
            _limit(kind, soft, hard)
        stage = "descriptors"
        os.chdir("/tmp")  # noqa: S108 (the sandbox's own)
        _arrange([os.open("/dev/null", os.O_RDWR), *(fds[name] for name in (*PROGRAM_FDS[1:], *plan.more))])
        control = CONTROL
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        stage = "seccomp filter"
        for program in filters:
            kernel.load_filter(program)
        if not plan.argv:
            _become_zygote()
        stage = f"start of {plan.executable}"
        os.execve(plan.executable, plan.argv, plan.environ)  # noqa: S606 (no shell: that is the point)
    except OSError as error:
        _report(control, Stage(stage, error))
    finally:
        os._exit(127)


def _become_zygote() -> NoReturn:
    """Go on as the agent: this is its interpreter already, started with a zygote's arguments and environment.

    Raises OSError if it is not: a base died, and what came in its place is none.
    """
    if not is_base:
        raise OSError(errno.ENOEXEC, "interpreters cannot be forked any more, and are started from now on")
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    agent.main()
    os._exit(0)


def _limit(kind: int, soft: int, hard: int) -> None:
    """Set a limit, at most to what is ours: a container's may be lower than those of the spot, which made the plan."""
    most = resource.getrlimit(kind)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(kind, (soft, hard))


def _report(control: int, failure: Stage) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, control)
    error = {"type": "SandboxError", "message": str(failure), "traceback": None}
    wire.send(sock, {"op": "failed", "stage": failure.stage, "errno": failure.errno, "error": error})


def _keep_caps() -> None:
    """Only what a zygote needs; ambient, because an ordinary user's do not survive the exec otherwise."""
    for cap in range(64):
        if cap not in kernel.ZYGOTE_CAPS and _in_bounding_set(cap):
            kernel.prctl(kernel.PR_CAPBSET_DROP, cap)
    kernel.capset(kernel.ZYGOTE_CAPS, ambient=True)
    for cap in kernel.ZYGOTE_CAPS:
        kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_RAISE, cap)


def _in_bounding_set(cap: int) -> bool:
    try:
        return kernel.prctl(kernel.PR_CAPBSET_READ, cap) == 1
    except OSError:  # beyond the last capability of this kernel
        return False


def _arrange(fds: list[int]) -> None:
    """Make them 0, 1, 2 ... and close everything else. Copied up first, so that none is overwritten."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds]
    for number, fd in enumerate(high):
        os.dup2(fd, number)
    kernel.close_range(len(high))


if __name__ == "__main__":
    sys.exit(main())
