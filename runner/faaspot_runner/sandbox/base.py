"""A launcher that is the interpreter of the functions: it forks a zygote instead of starting one.

An interpreter needs more time to start than all walls of a sandbox take. So each interpreter of a spot gets a launcher
which has started it once and holds the agent; it knows no deployment, and nothing that a user or a package has written
ever runs in it. What it forks finds itself in the root of a new sandbox, where all paths lead to the same files.

That is why it is started in a root of its own, made as a sandbox's is: with the interpreter at /python and the agent,
each of them read-only. What a zygote can open as its own program (/proc/self/exe) lies on that mount, not on the
host's. When everything is imported, the base steps back into the host's root, whose files the launcher has to bind.

::

    launcher process of the spot: `stage`, then exec of /env/bin/python: `begin`, then `launcher.main`
    base -> spot   {"op": "begun"}   |   {"op": "failed", "message": ...}: the interpreter has to be started each time
"""

from __future__ import annotations

import errno
import gc
import json
import os
import resource
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from faaspot_runner.agent import child, wire
from faaspot_runner.agent import syscalls as kernel
from faaspot_runner.sandbox import launcher, mounts, namespaces
from faaspot_runner.sandbox.syscalls import AT_FDCWD, MOUNT_ATTR_RDONLY, mount_setattr, umount

HOST = 4
"""Where the base finds the host's root, until it has stepped back into it."""
PACKAGE = "/agent/faaspot_runner"
BOOT = "exec(open('/agent/base.py').read())"
"""What is to be seen of it in every zygote's command line: nothing of ours."""
FILES = {
    "/agent/base.py": "import sys; sys.path.insert(0, '/agent'); from faaspot_runner.sandbox.base import begin; begin()"
}


@dataclass(frozen=True)
class Base:
    """What to start. The fields are those of `launcher.Plan`; `mapped`: root starts it, else an ordinary user.

    `stack`: bytes that libc gives every thread, which it asks the kernel when a program starts, so at no fork.
    """

    binds: list[list[str]]
    files: dict[str, str]
    links: dict[str, str]
    libraries: list[str]
    environ: dict[str, str]
    executable: str
    mapped: bool
    stack: int


def stage() -> NoReturn:
    """In a process of the spot's Python, with a `Base` as its argument: make the root and become the interpreter."""
    try:
        _become(Base(**json.loads(sys.argv[1])))
    except OSError as error:
        _tell({"op": "failed", "message": str(error)})
    finally:
        os._exit(1)


def _become(base: Base) -> NoReturn:
    """Raises OSError: in some containers neither mounts nor chroot are allowed to who makes sandboxes."""
    if not base.mapped:
        _own_user_namespace()
    kernel.unshare(kernel.CLONE_NEWNS)
    mounts.make_slave()
    os.umask(0o022)
    host = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    binds = [*mounts.system_binds(), *((source, target) for source, target in base.binds)]
    opened = mounts.open_binds(binds) + mounts.open_devices()
    mounts.open_stage()
    mounts.fill_stage(opened, {path: text.encode() for path, text in base.files.items()}, base.links, base.libraries)
    mount_setattr(AT_FDCWD, MOUNT_ATTR_RDONLY, mounts.STAGE, recursive=False)
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = base.stack if most == resource.RLIM_INFINITY else min(base.stack, most)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, most))
    os.dup2(host, HOST)
    os.set_inheritable(HOST, True)  # where it was at that number already
    kernel.close_range(HOST + 1)
    os.chroot(mounts.STAGE)
    os.chdir("/")
    os.execve(base.executable, ["/env/bin/python", "-I", "-c", BOOT], base.environ)  # noqa: S606 (no shell)


def begin() -> NoReturn:
    """In the interpreter: everything is imported now; back to the host's files, and serve the spot."""
    Path("/etc/passwd").read_text()  # what text files are read by is imported at the first one
    os.fchdir(HOST)
    os.chroot(".")
    os.close(HOST)
    umount(mounts.STAGE)
    try:
        _check_alone()
    except OSError as error:
        _tell({"op": "failed", "message": str(error)})
        os._exit(1)
    launcher.is_base = True
    _tell({"op": "begun"})
    child.rehearse()
    gc.collect()
    gc.freeze()
    launcher.main()


def _check_alone() -> None:
    """Look that what is forked shares nothing with us, and lacks nothing. Raises OSError.

    What an administrator has put into an interpreter's start (sitecustomize) may have started threads, or have memory
    that parent and children write to together, as some builds of libffi do for callbacks.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise OSError(errno.EBUSY, "its start leaves threads running")
    with open("/proc/self/maps") as maps:
        for rights, line in ((line.split()[1], line) for line in maps):
            if "w" in rights and rights.endswith("s"):
                raise OSError(errno.EBUSY, "its start leaves memory that is shared: " + line.strip())


def _tell(message: dict[str, str]) -> None:
    """To the spot, before it asks for anything."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, launcher.SPOT)
    wire.send(sock, message)
    sock.detach()


def _own_user_namespace() -> None:
    """An ordinary user may mount only below a user namespace of his own. He is root in it, and nobody else is there."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    namespaces.write_own_map(uid, gid)
