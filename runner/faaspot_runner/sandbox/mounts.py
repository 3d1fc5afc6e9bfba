"""The root of a sandbox: a small tmpfs of our own, into which read-only pieces of the host are bound.

Runs in the child that becomes the sandbox, in its own mount namespace. Two steps around the change of uid: `open_binds`
still may look into directories that only root can enter, `build_root` is already the sandbox's throw-away user.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import PurePosixPath

from faaspot_runner.agent.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC, MS_SLAVE, mount
from faaspot_runner.sandbox.syscalls import (
    AT_FDCWD,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    mount_setattr,
    move_mount,
    open_tree,
    pivot_root,
    umount,
)

STAGE = "/tmp"  # noqa: S108 (any directory that exists everywhere; covered in our own mount namespace only)
DEVICES = ("null", "zero", "full", "random", "urandom")
SYSTEM_DIRECTORIES = ("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec")
SYSTEM_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
SYSTEM_DATA = ("/usr/share/zoneinfo", "/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime")
CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
FILES = {
    "/etc/passwd": "root:x:0:0::/tmp:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n",
    "/etc/group": "root:x:0:\nuser:x:1000:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
NOT_AN_IMAGES = frozenset(("boot", "dev", "home", "lost+found", "proc", "root", "run", "sys", "tmp"))
"""Directories of a container's root that are not shown: the kernel's, the engine's, people's."""
OURS = frozenset(("agent", "code", "env", "python"))
NOT_OF_ETC = frozenset(("group", "hostname", "hosts", "mtab", "nsswitch.conf", "passwd", "resolv.conf"))
"""Entries of a container's /etc that are the engine's, or ours inside."""
IMAGES_ETC = "/.etc"
"""Where the rest of it is: as deep as /etc, so that links in it lead where they should."""
TMPFS = ("/tmp", "/dev/shm")  # noqa: S108 (inside the sandbox)
ROOT_OPTIONS = "size=32m,nr_inodes=2048,mode=755"


@dataclass(frozen=True)
class OpenBind:
    """A detached mount that waits for its place."""

    tree: int
    target: str
    directory: bool


def make_private() -> None:
    """The first act in a new mount namespace: nothing done in it may ever reach the host's."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)


def make_slave() -> None:
    """The same for one that lives long: what the host unmounts goes here, too, and is not held by a copy of ours."""
    mount("none", "/", None, MS_REC | MS_SLAVE)


def system_binds() -> list[tuple[str, str]]:
    """(source, target) of what every sandbox sees of the host's system, as far as it is there."""
    places = [*SYSTEM_DIRECTORIES, *SYSTEM_DATA]
    places += [path for path in SYSTEM_LINKS if os.path.isdir(path) and not os.path.islink(path)]
    found = [(path, path) for path in places if os.path.exists(path) and not os.path.islink(path)]
    # A link is followed here: what it points to is not there inside.
    found += [(os.path.realpath(path), path) for path in SYSTEM_DATA if os.path.islink(path) and os.path.exists(path)]
    bundle = next((path for path in CERTIFICATES if os.path.exists(path)), None)
    if bundle is not None:
        found += [(os.path.realpath(bundle), target) for target in CERTIFICATES]
    return found


def image_binds() -> list[tuple[str, str]]:
    """(source, target) of what a sandbox in a container sees of it: everything that came with the image."""
    shown = [f"/{name}" for name in os.listdir("/") if name not in NOT_AN_IMAGES | OURS]
    return [(path, IMAGES_ETC if path == "/etc" else path) for path in shown if not os.path.islink(path)]


def image_links() -> dict[str, str]:
    """The symbolic links among them, and those by which most of the image's /etc is in ours: path -> what it says."""
    shown = [f"/{name}" for name in os.listdir("/") if name not in NOT_AN_IMAGES | OURS]
    links = {path: os.readlink(path) for path in shown if os.path.islink(path)}
    return {
        **links,
        **{f"/etc/{name}": f"{IMAGES_ETC}/{name}" for name in os.listdir("/etc") if name not in NOT_OF_ETC},
    }


def open_binds(binds: list[tuple[str, str]]) -> list[OpenBind]:
    """Detached, read-only copies of the sources' mounts. Raises OSError naming the source."""
    opened = []
    for source, target in binds:
        try:
            tree = open_tree(source)
            mount_setattr(tree, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror} (bind of {source})") from None
        opened.append(OpenBind(tree, target, stat.S_ISDIR(os.fstat(tree).st_mode)))
    return opened


def open_devices() -> list[OpenBind]:
    """The device nodes, usable: their mounts are all but nodev."""
    opened = []
    for name in DEVICES:
        tree = open_tree(f"/dev/{name}")
        mount_setattr(tree, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
        opened.append(OpenBind(tree, f"/dev/{name}", False))
    return opened


def build_root(
    binds: list[OpenBind],
    files: dict[str, bytes],
    links: dict[str, str],
    libraries: list[str],
    tmp_mb: int,
    *,
    writable: bool = False,
) -> int:
    """Put the root together, enter it, let go of the host's and make it read-only. Raises OSError.

    `libraries`: names in /python/lib that the dynamic loader must find by itself. `writable`: returns a descriptor of
    the root, by which its own files can still be written; it has no place in any mount namespace. Else -1.
    """
    open_stage()
    root = open_tree(".", recursive=False) if writable else -1
    fill_stage(binds, files, links, libraries)
    _mount_own(tmp_mb)
    _enter()
    return root


def open_stage() -> None:
    """An empty file system of our own at `STAGE`, which is the working directory then. Raises OSError."""
    mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, ROOT_OPTIONS)
    os.chdir(STAGE)


def fill_stage(binds: list[OpenBind], files: dict[str, bytes], links: dict[str, str], libraries: list[str]) -> None:
    """Put a root together there. Raises OSError."""
    for path, text in FILES.items():
        _write(path, text.encode())
    for path, data in files.items():
        _write(path, data)
    for bind in binds:
        _place(bind)
    for path, target in {**_system_links(libraries), **_DEVICE_LINKS, **links}.items():
        _parent(path)
        os.symlink(target, _staged(path))


_DEVICE_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}


def _system_links(libraries: list[str]) -> dict[str, str]:
    """/bin, /lib and so on as the host has them.

    An interpreter that brings a libpython has its old place written into itself as the place to look. /lib then is no
    link but a directory of links, with libpython among them: the loader looks there of itself.
    """
    found = {path: os.readlink(path) for path in SYSTEM_LINKS if os.path.islink(path)}
    for path in ("/lib", "/lib64"):
        if libraries and path in found:
            target = "/" + found.pop(path).lstrip("/")
            found.update({f"{path}/{name}": f"{target}/{name}" for name in _loader_needs(target)})
            found.update({f"{path}/{name}": f"/python/lib/{name}" for name in libraries})
    return found


def _loader_needs(directory: str) -> list[str]:
    """The loaders themselves and the directories by architecture. Listed in the new root, where it is bound."""
    entries = os.scandir(_staged(directory))
    return [entry.name for entry in entries if entry.name.startswith("ld-") or entry.is_dir(follow_symlinks=False)]


def _staged(path: str) -> str:
    """The path below the stage, which is the working directory."""
    return path.lstrip("/")


def _parent(path: str) -> None:
    os.makedirs(str(PurePosixPath(_staged(path)).parent), exist_ok=True)


def _write(path: str, data: bytes) -> None:
    _parent(path)
    with open(_staged(path), "wb") as file:
        file.write(data)


def _place(bind: OpenBind) -> None:
    _parent(bind.target)
    if bind.directory:
        os.makedirs(_staged(bind.target), exist_ok=True)
    elif not os.path.exists(_staged(bind.target)):
        os.close(os.open(_staged(bind.target), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
    move_mount(bind.tree, _staged(bind.target))
    os.close(bind.tree)


def _mount_own(tmp_mb: int) -> None:
    """The import's own /tmp and /dev/shm, which every run covers with fresh ones, and a first /proc."""
    for path in ("proc", *map(_staged, TMPFS)):
        os.makedirs(path, exist_ok=True)
    mount_fresh("", tmp_mb)


def mount_fresh(root: str, tmp_mb: int, pid_namespace: str = "") -> None:
    """An empty /tmp and /dev/shm, and a /proc, below `root` ("" or "/"); see `mount_proc`. Raises OSError."""
    room = f"size={tmp_mb}m,nr_inodes={tmp_mb * 64 + 256},mode=1777"
    mount("tmpfs", root + "tmp", "tmpfs", MS_NOSUID | MS_NODEV, room)
    mount("tmpfs", root + "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, room)
    mount_proc(root, pid_namespace)


def mount_proc(root: str, pid_namespace: str = "") -> None:
    """The /proc of this process' pid namespace, or of the one at that path (Linux 6.18). Raises OSError."""
    # hidepid: processes of ours, whose command line names the host's paths, are not the zygote's or a run's to see.
    options = "subset=pid,hidepid=invisible" + (f",pidns={pid_namespace}" if pid_namespace else "")
    mount("proc", root + "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)


def _enter() -> None:
    """pivot_root onto itself stacks the old root on top of the new one, from where it is let go."""
    pivot_root(".", ".")
    umount(".")
    os.chdir("/")
    mount_setattr(AT_FDCWD, MOUNT_ATTR_RDONLY, "/", recursive=False)
