"""Taking over a tree that somebody else made: only plain files, directories and links that stay inside.

The maker may be hostile and may still be writing, so nothing is opened by path: every step goes from a directory's
descriptor to an entry of it without following a link, and contents are copied into fresh files of our own.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from faaspot_runner.environments.errors import BuildError
from faaspot_runner.environments.process import disk_full

FILE_MODE, PROGRAM_MODE, DIRECTORY_MODE = 0o444, 0o555, 0o555
MAX_BYTES = 8 * 2**30
MAX_ENTRIES = 500_000
MAX_DEPTH = 64
_CHUNK = 1024 * 1024
_NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC

Rewrite = Callable[[str, bytes], bytes]
"""Path in the tree and first block of a file -> what to write instead of that block."""


@dataclass(slots=True)
class Budget:
    """What a tree may still take."""

    size: int = MAX_BYTES
    entries: int = MAX_ENTRIES

    def spend(self, *, size: int = 0) -> None:
        """Raises BuildError when the tree is too large."""
        self.size -= size
        self.entries -= 0 if size else 1
        if self.size < 0 or self.entries < 0:
            raise BuildError(
                f"The packages are too large: an environment may have {MAX_BYTES // 2**30} GB and {MAX_ENTRIES} files."
            )


def take_over(source: int, destination: Path, *, rewrite: Rewrite, budget: Budget | None = None) -> None:
    """Copy what the directory behind the descriptor `source` holds into `destination`, an empty directory.

    Modes become read-only, 0555 or 0444. Raises BuildError for anything that an installed package cannot be.
    """
    try:
        _Copier(destination, rewrite, budget or Budget()).directory(source, "")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full() from error
        # Names came or went, or turned into links, while we looked.
        raise BuildError(f"The packages could not be taken over: {os.strerror(error.errno or errno.EIO)}.") from error


def link_stays_inside(path: str, target: str) -> bool:
    """Whether a symbolic link at `path` (relative to the tree's root) to `target` leads to a place in the tree."""
    if target.startswith("/") or not target or "\0" in target:
        return False
    depth = len(PurePosixPath(path).parts) - 1
    for part in target.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            return False
    return True


@dataclass(frozen=True, slots=True)
class _Copier:
    destination: Path
    rewrite: Rewrite
    budget: Budget

    def directory(self, source: int, path: str) -> None:
        if path.count("/") > MAX_DEPTH:
            raise BuildError("A package has directories nested too deeply.")
        for name in sorted(os.listdir(source)):
            self.budget.spend()
            self._entry(source, name, os.path.join(path, name))
        os.chmod(self.destination / path, DIRECTORY_MODE)

    def _entry(self, parent: int, name: str, path: str) -> None:
        kind = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if stat.S_ISLNK(kind):
            self._link(os.readlink(name, dir_fd=parent), path)
        elif stat.S_ISDIR(kind):
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW, dir_fd=parent)
            try:
                os.mkdir(self.destination / path)
                self.directory(descriptor, path)
            finally:
                os.close(descriptor)
        elif stat.S_ISREG(kind):
            # It may be a FIFO by now: opening one must not wait for its other end.
            descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _NO_FOLLOW, dir_fd=parent)
            try:
                self._file(descriptor, path)
            finally:
                os.close(descriptor)
        else:
            raise BuildError(f"A package holds {path!r}, which is neither a file, a directory nor a link.")

    def _link(self, target: str, path: str) -> None:
        if not link_stays_inside(path, target):
            raise BuildError(f"A package holds the link {path!r}, which leads out of the environment.")
        os.symlink(target, self.destination / path)

    def _file(self, source: int, path: str) -> None:
        mode = os.fstat(source).st_mode
        if not stat.S_ISREG(mode):
            raise BuildError(f"A package holds {path!r}, which is not a file any more.")
        copy = os.open(self.destination / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600)
        with open(copy, "wb") as file:
            block = os.read(source, _CHUNK)
            file.write(self.rewrite(path, block))
            while block:
                self.budget.spend(size=len(block))
                block = os.read(source, _CHUNK)
                file.write(block)
            os.fchmod(file.fileno(), PROGRAM_MODE if mode & stat.S_IXUSR else FILE_MODE)
