"""Directories under construction, and locks, so that many processes can share one tree and die at any moment.

What is being built lies beside what is published, under a name that begins with a dot, and its builder holds a lock
on it. The kernel drops the lock when the builder dies, however it dies; `sweep` then takes the directory away.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = ".new-"
_RETRY_SECONDS = 0.05


@contextmanager
def staged(parent: Path, *, owner: int | None = None) -> Iterator[Path]:
    """A new, empty, locked directory in `parent`; removed at the end unless it was renamed away.

    `owner`: the uid that it is given to, None for our own.
    """
    descriptor, path = _locked_directory(parent)
    try:
        if owner is not None:
            os.fchown(descriptor, owner, owner)
        yield path
    finally:
        remove_tree(path)
        os.close(descriptor)


def _locked_directory(parent: Path) -> tuple[int, Path]:
    while True:
        path = parent / (PREFIX + secrets.token_hex(8))
        path.mkdir(mode=0o755)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # A sweep may have come between mkdir and lock and taken it away.
        if _is_at(descriptor, path):
            return descriptor, path
        os.close(descriptor)


def sweep(parent: Path) -> None:
    """Remove the staged directories in `parent` whose builders are dead."""
    for path in parent.glob(PREFIX + "*"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(path)
        except BlockingIOError:
            pass  # its builder lives
        finally:
            os.close(descriptor)


@contextmanager
def locked(path: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file at `path`, against threads and processes. `wait` is called between tries and may raise.

    The file goes when the holder says so by `unlink`; who waited on a file that is gone starts over with a new one.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if _try_lock(descriptor) and _is_at(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)
        wait()
        time.sleep(_RETRY_SECONDS)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def take_away(path: Path) -> None:
    """Remove a published tree: at once out of sight, then file by file. Nothing happens if there is none."""
    aside = path.with_name(PREFIX + secrets.token_hex(8))
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    remove_tree(aside)


def remove_tree(path: Path) -> None:
    """Remove a file or a tree, also of read-only directories; no link in it is followed. Raises OSError."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    if os.geteuid() != 0:
        for *_, descriptor in os.fwalk(path):
            os.fchmod(descriptor, 0o700)
    shutil.rmtree(path)
