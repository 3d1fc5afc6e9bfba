"""A program: tries one kernel feature after the other, each in a throw-away child, and prints what failed as JSON.

    python -m faaspot_runner.sandbox.probes        {"user namespaces": "", "seccomp filter": "[Errno 22] ..."}

A process of its own, because the spot has threads and may not fork. Every child's first act in a mount namespace is to
make the mounts private: nothing that is tried here ever reaches the host.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from faaspot_runner.agent.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    PR_SET_NO_NEW_PRIVS,
    check,
    close_range,
    load_filter,
    mount,
    prctl,
    unshare,
)
from faaspot_runner.sandbox.mounts import make_private
from faaspot_runner.sandbox.syscalls import MOUNT_ATTR_RDONLY, mount_setattr, open_tree, pivot_root, umount

LANDLOCK_CREATE_RULESET = 444
LANDLOCK_VERSION = 1
RETURN_ALLOW = (0x06).to_bytes(2, "little") + b"\0\0" + (0x7FFF0000).to_bytes(4, "little")
STAGE = "/tmp"  # noqa: S108 (any directory that exists everywhere; covered in our own mount namespace only)


def user() -> None:
    """A user namespace that gives its maker capabilities: AppArmor may let it be made and take them all away."""
    _own_user(CLONE_NEWNS)
    make_private()


def pid() -> None:
    _own_user(CLONE_NEWPID)
    child = os.fork()
    if not child:
        os._exit(0 if os.getpid() == 1 else 1)
    if os.waitpid(child, 0)[1]:
        raise OSError("the first process of a new pid namespace is not number 1")


def net() -> None:
    _own_user(CLONE_NEWNET)


def ipc() -> None:
    _own_user(CLONE_NEWIPC)


def uts() -> None:
    _own_user(CLONE_NEWUTS)


def cgroup() -> None:
    _own_user(CLONE_NEWCGROUP)


def tmpfs() -> None:
    _own_user(CLONE_NEWNS)
    make_private()
    mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=16")
    (Path(STAGE) / "file").write_text("x")


def proc() -> None:
    _own_user(CLONE_NEWNS | CLONE_NEWPID)
    _in_child(_mount_proc)


def _mount_proc() -> None:
    make_private()
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "subset=pid,hidepid=invisible")
    if Path("/proc/sys").exists():
        raise OSError("the mount option subset=pid has no effect")


def read_only_binds() -> None:
    _own_user(CLONE_NEWNS)
    make_private()
    mount_setattr(open_tree("/"), MOUNT_ATTR_RDONLY)


def own_root() -> None:
    _own_user(CLONE_NEWNS)
    make_private()
    mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m")
    os.chdir(STAGE)
    pivot_root(".", ".")
    umount(".")


def no_new_privs() -> None:
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def seccomp() -> None:
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    load_filter(RETURN_ALLOW)


def libseccomp() -> None:
    try:
        import pyseccomp  # noqa: F401 (loads the library)
    except (ImportError, RuntimeError) as error:
        raise OSError(str(error)) from None


def pidfd() -> None:
    signal.pidfd_send_signal(os.pidfd_open(os.getpid()), 0)


def descriptors() -> None:
    close_range(1 << 20)


def children() -> None:
    (Path("/proc/self/task") / str(os.getpid()) / "children").read_text()


def shared_memory() -> None:
    with mmap.mmap(-1, mmap.PAGESIZE):
        if "Pss_Shmem" not in Path("/proc/self/smaps_rollup").read_text():
            raise OSError("/proc/PID/smaps_rollup does not tell shared memory")


def landlock() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(ctypes.c_long(LANDLOCK_CREATE_RULESET), None, ctypes.c_size_t(0), LANDLOCK_VERSION)
    check(int(version), "landlock_create_ruleset")


PROBES: dict[str, Callable[[], None]] = {
    "user namespaces": user,
    "pid namespaces": pid,
    "network namespaces": net,
    "ipc namespaces": ipc,
    "uts namespaces": uts,
    "cgroup namespaces": cgroup,
    "tmpfs in a user namespace": tmpfs,
    "proc with subset=pid": proc,
    "mount_setattr": read_only_binds,
    "pivot_root": own_root,
    "no_new_privs": no_new_privs,
    "seccomp filters": seccomp,
    "libseccomp": libseccomp,
    "pidfd": pidfd,
    "close_range": descriptors,
    "/proc/PID/task/*/children": children,
    "smaps_rollup": shared_memory,
    "Landlock": landlock,
}


def attempt(probe: Callable[[], None]) -> str:
    """What went wrong in a child that tried; empty if nothing did."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            probe()
            code = 0
        except OSError as error:
            os.write(writer, str(error).encode()[:4096])
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    status = os.waitpid(pid, 0)[1]
    return said or (f"the child that tried it ended with status {status}" if status else "")


def _own_user(kind: int) -> None:
    """A user namespace of its own with another one in it, and our user as its root."""
    user, group = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | kind)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1\n")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1\n")


def _in_child(work: Callable[[], None]) -> None:
    failed = attempt(work)
    if failed:
        raise OSError(failed)


if __name__ == "__main__":
    json.dump({name: attempt(probe) for name, probe in PROBES.items()}, sys.stdout)
