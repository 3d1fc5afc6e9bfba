"""Turns between tests of several pytest processes: those that look at the whole machine run while no other does."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(*, alone: bool) -> Iterator[None]:
    """Wait for it, and hold it. Who waits to be alone stands at the door, so that nobody new goes in before."""
    with _held("door", fcntl.LOCK_EX) as door, _held("room", fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
        if not alone:
            fcntl.flock(door, fcntl.LOCK_UN)
        yield


@contextmanager
def _held(name: str, kind: int) -> Iterator[int]:
    path = Path(tempfile.gettempdir()) / f"faaspot-tests-{os.geteuid()}-{name}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield descriptor
    finally:
        os.close(descriptor)
