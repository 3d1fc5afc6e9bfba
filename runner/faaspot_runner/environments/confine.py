"""Runs between fork and exec of each program that a build starts outside a sandbox: uv, and the byte-compiler.

A program of its own, standard library only (``python -I -S confine.py PLAN COMMAND...``): in a fresh process there is
one thread, so mounts and uid changes are plain code. uv talks to the network and unpacks what strangers made; so if
the platform is root, it works as an ordinary uid that may write to one directory. That uid may not be able to walk
to this directory or to the interpreter (a home of mode 0700), so both are bound to a neutral place in a mount
namespace of this process's own. The host's mount table never changes.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import stat
import sys
from collections.abc import Sequence
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWNS = 0x20000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND = 1, 2, 4, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
MAX_FILE_BYTES = 4 * 2**30
CANNOT_RUN = 126

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: Sequence[str]) -> int:
    """Carry out the plan and become the command; returns only on failure.

    The plan's fields: `parent` pid; `uid` or null; `view`: a directory to cover; `binds`: [source, name in it] pairs.
    """
    plan: dict[str, Any] = json.loads(arguments[0])
    command = list(arguments[1:])
    try:
        if plan["uid"] is not None:
            show(plan["view"], plan["binds"])
            drop(plan["uid"])
        call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # After the last change of uid, which clears it. The parent may have died before.
        call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != plan["parent"]:
            return CANNOT_RUN
        _lower(resource.RLIMIT_CORE, 1)  # see sandbox.limits
        _lower(resource.RLIMIT_FSIZE, MAX_FILE_BYTES)
        os.umask(0o022)
        os.chdir("/")
        os.execv(command[0], command)  # noqa: S606 (a list, no shell: this is what the program is for)
    except OSError as error:
        sys.stderr.write(f"cannot start {os.path.basename(command[0])}: {error}\n")
    return CANNOT_RUN


def show(view: str, binds: Sequence[tuple[str, str]]) -> None:
    """Cover `view` with a small read-only tmpfs in which each source is bound under its name."""
    call("unshare", CLONE_NEWNS)
    # First of all: otherwise what follows would show on the whole machine.
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    # Opened before the tmpfs may hide them.
    opened = [(os.open(source, os.O_PATH | os.O_CLOEXEC), os.path.join(view, name)) for source, name in binds]
    mount("tmpfs", view, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=64k,nr_inodes=64")
    os.umask(0o022)
    for descriptor, target in opened:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        mount(f"/proc/self/fd/{descriptor}", target, None, MS_BIND)
    mount(None, view, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def drop(uid: int) -> None:
    """Become `uid` for good, with no group but its own number."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _lower(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    if hard == resource.RLIM_INFINITY or hard >= value:
        resource.setrlimit(limit, (value, value))


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    if _libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*(ctypes.c_ulong(argument) for argument in arguments)) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
