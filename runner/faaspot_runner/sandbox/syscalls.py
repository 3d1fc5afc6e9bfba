"""The system calls of the launcher that Python has no word for, beside those it shares with the agent."""

from __future__ import annotations

import ctypes
import errno
import os

from faaspot_runner.agent.syscalls import check

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = 0o2000000
MOVE_MOUNT_F_EMPTY_PATH = 4
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MNT_DETACH = 2
IN_DELETE_SELF = 0x400
IN_IGNORED = 0x8000
SIGCHLD = 17
CLONE_INTO_CGROUP = 0x200000000

_NUMBERS = {
    "x86_64": {"clone": 56, "pivot_root": 155},
    "aarch64": {"clone": 220, "pivot_root": 41},
}
_COMMON = {"open_tree": 428, "move_mount": 429, "clone3": 435, "mount_setattr": 442}

# PyDLL holds the interpreter's lock over the call: after a clone the child must not wait for it.
_python = ctypes.PyDLL(None, use_errno=True)
_python.syscall.restype = ctypes.c_long
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _number(name: str) -> int:
    try:
        return _COMMON.get(name) or _NUMBERS[os.uname().machine][name]
    except KeyError:
        raise OSError(errno.ENOSYS, f"{name}: unknown on {os.uname().machine}") from None


def clone(flags: int, cgroup: int | None = None) -> int:
    """Fork with namespaces made on the way: 0 in the child, its pid in the parent. Only from a single-threaded process.

    Python's own fork hooks run; those of libc do not, so the child may only set up, fork and exec. `cgroup`: directory
    of the version 2 group that the child is born in; to be moved there later would wait for all processors.
    """
    python = ctypes.pythonapi
    if cgroup is None:
        arguments = [_number("clone"), flags | SIGCHLD, 0, 0, 0, 0]
    else:
        wanted = (ctypes.c_uint64 * 11)(flags | CLONE_INTO_CGROUP, 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, cgroup)
        arguments = [_number("clone3"), ctypes.addressof(wanted), ctypes.sizeof(wanted)]
    python.PyOS_BeforeFork()
    pid = int(_python.syscall(*map(ctypes.c_long, arguments)))
    if pid == 0:
        python.PyOS_AfterFork_Child()
    else:
        python.PyOS_AfterFork_Parent()
    return check(pid, "clone")


def open_tree(path: str, *, recursive: bool = True) -> int:
    """A detached copy of the mount at `path`, by default with those below it."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return _path_call("open_tree", ctypes.c_long(AT_FDCWD), path.encode(), ctypes.c_long(flags))


def move_mount(tree: int, target: str) -> None:
    """Attach a detached mount."""
    _path_call(
        "move_mount",
        ctypes.c_long(tree),
        b"",
        ctypes.c_long(AT_FDCWD),
        target.encode(),
        ctypes.c_long(MOVE_MOUNT_F_EMPTY_PATH),
    )


def mount_setattr(tree: int, attributes: int, path: str = "", *, recursive: bool = True) -> None:
    """Set attributes on a mount (of a descriptor, or of a path), by default on all below it, too."""
    fields = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    flags = (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    _path_call(
        "mount_setattr",
        ctypes.c_long(tree),
        path.encode(),
        ctypes.c_long(flags),
        ctypes.byref(fields),
        ctypes.c_long(ctypes.sizeof(fields)),
    )


def pivot_root(new: str, old: str) -> None:
    """`pivot_root(2)`."""
    _path_call("pivot_root", new.encode(), old.encode())


def umount(path: str, flags: int = MNT_DETACH) -> None:
    """`umount2(2)`."""
    check(int(_libc.umount2(path.encode(), ctypes.c_int(flags))), f"umount {path}")


def sethostname(name: str) -> None:
    """`sethostname(2)`."""
    check(int(_libc.sethostname(name.encode(), ctypes.c_size_t(len(name)))), "sethostname")


def inotify_init() -> int:
    """`inotify_init1(2)`, close-on-exec."""
    return check(int(_libc.inotify_init1(ctypes.c_int(os.O_CLOEXEC))), "inotify_init1")


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """`inotify_add_watch(2)`: the number of the watch."""
    return check(int(_libc.inotify_add_watch(ctypes.c_int(fd), path.encode(), ctypes.c_uint32(mask))), f"watch {path}")


def _path_call(name: str, *args: object) -> int:
    return check(int(_libc.syscall(ctypes.c_long(_number(name)), *args)), name)
