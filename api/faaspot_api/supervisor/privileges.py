"""Runs between fork and exec of each child of the supervisor: dies with its parent, sees little, drops to a uid.

A program of its own, standard library only, started as ``python -I -S privileges.py PLAN COMMAND...``: in a fresh
process there is one thread, so unshare, mounts and uid changes are plain code that can be read from top to bottom.
PLAN is the JSON of `Plan`; it holds no secret, because argument lists are public.

The service uid often cannot walk to what it needs: the interpreter or the data directory may lie under a home of mode
0700. Such a directory is covered, in a mount namespace of the child's own, by a small read-only tmpfs that holds
nothing but bind mounts of the needed trees. The host's mount table never changes
(`test_supervisor_privileges.py` compares it).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWNS = 0x20000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND = 1, 2, 4, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
WANTED_FILES = 65_536
"""Open files a child may have if the hard limit allows: each waiting caller takes up to three."""
CANNOT_RUN = 126
"""Exit status when the command could not be prepared, as a shell has it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a child is to run. `uid` None: as who we are. `needed`: absolute paths `uid` must reach, if they exist."""

    parent: int
    death_signal: int = signal.SIGKILL
    uid: int | None = None
    needed: tuple[str, ...] = ()

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Plan:
        data = json.loads(text)
        return cls(**{**data, "needed": tuple(data["needed"])})


@dataclass(frozen=True, kw_only=True)
class Cover:
    """A directory the uid cannot pass, and what shall be there instead: bind mounts of `trees`, and `links`."""

    directory: str
    trees: tuple[str, ...]
    links: tuple[tuple[str, str], ...]


class NotPreparedError(Exception):
    """The child cannot run as planned; the text says why and what to do."""


def main(arguments: Sequence[str]) -> int:
    """Carry out the plan and become the command; returns only on failure."""
    plan, command = Plan.of(arguments[0]), list(arguments[1:])
    try:
        die_with_parent(plan)
        if plan.uid is not None:
            needed = [path for path in plan.needed if os.path.lexists(path)]
            cover(covers(plan.uid, needed))
            drop(plan.uid)
            # The kernel forgets the death signal when the uid changes.
            die_with_parent(plan)
            check_reachable(plan.uid, needed)
        allow_files()
        os.umask(0o077)
        os.chdir("/")
        os.execv(command[0], command)  # noqa: S606 (a list, no shell: this is what the program is for)
    except (NotPreparedError, OSError) as error:
        sys.stderr.write(f"cannot start {command[0]}: {error}\n")
    return CANNOT_RUN


def die_with_parent(plan: Plan) -> None:
    """Get the plan's signal when the parent dies, and end now if it is dead already."""
    _call("prctl", PR_SET_PDEATHSIG, plan.death_signal, 0, 0, 0)
    if os.getppid() != plan.parent:
        raise NotPreparedError("the process that started it has gone")


def drop(uid: int) -> None:
    """Become `uid` for good: no groups, no way back, no new privileges by any exec."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def allow_files() -> None:
    """Raise the soft limit of open files, as far as the hard one goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# ---------------------------------------------------------------- what to cover


def covers(uid: int, needed: Iterable[str]) -> list[Cover]:
    """The topmost directories on the way to `needed` that `uid` cannot pass; none where it reaches everything."""
    trees: set[str] = set()
    links: dict[str, str] = {}
    trees.update(_follow(path, links) for path in needed if os.path.lexists(path))
    ways = [*trees, *links]
    closed = {top for way in ways if (top := _first_closed(uid, way)) is not None}
    return [_cover(top, trees, links) for top in sorted(closed)]


def _follow(path: str, links: dict[str, str]) -> str:
    """The real path; each symbolic link passed on the way is put into `links`, since it must exist there, too."""
    seen, rest, at = 0, list(PurePath(path).parts[1:]), "/"
    while rest:
        name = rest.pop(0)
        if name == "..":
            at = os.path.dirname(at)
            continue
        here = os.path.join(at, name)
        if not os.path.islink(here):
            at = here
            continue
        seen += 1
        if seen > 40:
            raise NotPreparedError(f"too many symbolic links on the way to {path}")
        links[here] = target = os.readlink(here)
        at = "/" if target.startswith("/") else at
        rest = [part for part in PurePath(target).parts if part != "/"] + rest
    return at


def _first_closed(uid: int, path: str) -> str | None:
    """The first directory above `path` that `uid`, without any group but its own, cannot search."""
    for directory in reversed(PurePath(path).parents):
        status = os.stat(directory)
        bit = stat.S_IXUSR if status.st_uid == uid else stat.S_IXGRP if status.st_gid == uid else stat.S_IXOTH
        if not status.st_mode & bit:
            return str(directory)
    return None


def _cover(top: str, trees: Iterable[str], links: dict[str, str]) -> Cover:
    if top == "/":
        raise NotPreparedError("the root directory is closed to other users: chmod o+x /")
    under = [tree for tree in sorted(trees) if _within(tree, top)]
    outer = [tree for tree in under if not any(_within(tree, other) for other in under)]
    shown = [(link, to) for link, to in sorted(links.items()) if _within(link, top)]
    kept = [(link, to) for link, to in shown if not any(_within(link, tree) for tree in outer)]
    return Cover(directory=top, trees=tuple(outer), links=tuple(kept))


def _within(path: str, directory: str) -> bool:
    return path != directory and path.startswith(directory.rstrip("/") + "/")


# ---------------------------------------------------------------- the child's own mounts


def cover(places: Sequence[Cover]) -> None:
    """Do it, in a mount namespace of this process alone."""
    if not places:
        return
    _call("unshare", CLONE_NEWNS)
    # First of all: otherwise what follows would show on the whole machine.
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    for place in places:
        _cover_one(place)


def _cover_one(place: Cover) -> None:
    # Opened before the tmpfs hides them; the descriptors still lead to what lies below.
    opened = [(tree, os.open(tree, os.O_PATH | os.O_CLOEXEC)) for tree in place.trees]
    _mount("tmpfs", place.directory, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m,nr_inodes=4096")
    os.umask(0o022)
    for tree, descriptor in opened:
        os.makedirs(os.path.dirname(tree), exist_ok=True)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.makedirs(tree, exist_ok=True)
        else:
            os.close(os.open(tree, os.O_CREAT | os.O_WRONLY, 0o644))
        _mount(f"/proc/self/fd/{descriptor}", tree, None, MS_BIND | MS_REC)
        os.close(descriptor)
    for link, target in place.links:
        os.makedirs(os.path.dirname(link), exist_ok=True)
        if not os.path.lexists(link):
            os.symlink(target, link)
    _mount(None, place.directory, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def check_reachable(uid: int, needed: Iterable[str]) -> None:
    """Raises NotPreparedError for a needed path that this process, now with the uid's rights, cannot read."""
    for path in needed:
        if not os.access(path, os.R_OK | (os.X_OK if os.path.isdir(path) else 0)):
            raise NotPreparedError(f"uid {uid} cannot read {path}: chmod -R o+rX {path}")


# ---------------------------------------------------------------- the kernel

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*(ctypes.c_ulong(argument) for argument in arguments)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    if _libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount on {target}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
