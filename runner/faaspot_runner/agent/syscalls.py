"""The few system calls that Python 3.8 has no word for. Thin: one function a call, OSError on failure."""

from __future__ import annotations

import contextlib
import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_MODE_FILTER = 2

CAP_KILL = 5
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SETPCAP = 8
CAP_SYS_CHROOT = 18
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21
ZYGOTE_CAPS = (CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_SYS_ADMIN)
"""What a zygote keeps, in its own user namespace, to make the namespaces of its runs and to end them."""

_NUMBERS = {
    "x86_64": {"close_range": 436, "pidfd_open": 434, "pidfd_send_signal": 424},
    "aarch64": {"close_range": 436, "pidfd_open": 434, "pidfd_send_signal": 424},
}
_CAP_VERSION_3 = 0x20080522


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


_libc = ctypes.CDLL(None, use_errno=True)
# With their types said, plain integers are passed as they are. An object made for each argument would be new memory in
# a process that was just forked, where each page that is written to is copied first.
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = [ctypes.c_long] * 5
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.unshare.argtypes = [ctypes.c_int]
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]
_load_filter = ctypes.CDLL(None, use_errno=True).prctl  # the same call, with its third argument a pointer
_load_filter.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.POINTER(_Program), ctypes.c_ulong, ctypes.c_ulong]


def check(result: int, what: str) -> int:
    """The result of a call, or OSError with the call's name if it failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, "%s: %s" % (what, os.strerror(code)))
    return result


def number(name: str) -> int:
    """The number of a system call here. Raises OSError(ENOSYS) on a machine that this program does not know."""
    try:
        return _NUMBERS[os.uname().machine][name]
    except KeyError:
        raise OSError(38, "%s: unknown on %s" % (name, os.uname().machine)) from None


def call(name: str, *args: int) -> int:
    """A system call by name; every argument is passed as a long."""
    return check(_libc.syscall(number(name), *(*args, 0, 0, 0, 0)[:4]), name)


def prctl(option: int, *args: int) -> int:
    """`prctl(2)`."""
    return check(_libc.prctl(option, *(*args, 0, 0, 0, 0)[:4]), "prctl %d" % option)


def unshare(flags: int) -> None:
    """`unshare(2)`."""
    check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """`setns(2)`."""
    check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """`mount(2)`."""
    result = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    check(int(result), "mount %s" % target)


def capset(caps: tuple[int, ...], ambient: bool = False) -> None:
    """Have exactly these capabilities (all below 32), inheritable too with `ambient`, and clear the ambient set."""
    bits = sum(1 << cap for cap in caps)
    header = (ctypes.c_uint32 * 2)(_CAP_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(bits, bits, bits if ambient else 0, 0, 0, 0)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    check(_libc.capset(header, data), "capset")


def load_filter(program: bytes) -> None:
    """Put a seccomp program (8 bytes an instruction) on this thread and all it makes. Needs no_new_privs."""
    fprog = _Program(len(program) // 8, program)
    check(_load_filter(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(fprog), 0, 0), "seccomp filter")


def pidfd_open(pid: int) -> int:
    """A descriptor of the process, close-on-exec."""
    return call("pidfd_open", pid, 0)


def pidfd_kill(pidfd: int) -> None:
    """SIGKILL; nothing if it is dead already."""
    with contextlib.suppress(ProcessLookupError):
        call("pidfd_send_signal", pidfd, 9, 0, 0)


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """Close every descriptor from `first` to `last`."""
    call("close_range", first, last, 0)


def flush_stdio() -> None:
    """Write out what C code has put into stdout."""
    _libc.fflush(None)
