"""Descriptors of processes: whose one is that came out of a sandbox, and the end of that process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal


def pid_of(pidfd: int) -> int | None:
    """The process of a pidfd that a zygote or launcher sent, -1 if it is dead already, None if it cannot be theirs.

    A run is in a deeper pid namespace than we are. Without isolation it is not: then it is 0, nobody to look at from
    outside, as long as it is not we ourselves who are about to be killed.
    """
    fields = dict(line.split(":\t", 1) for line in _text_of(f"/proc/self/fdinfo/{pidfd}") if ":\t" in line)
    try:
        pid, nested = int(fields["Pid"]), fields.get("NSpid", "").split()
    except (KeyError, ValueError):
        return None
    if pid == -1 or len(nested) > _own_depth():
        return pid
    return 0 if pid > 1 and pid not in (os.getpid(), os.getppid()) else None


@functools.cache
def _own_depth() -> int:
    """How many pid namespaces this process is in."""
    return next(len(line.split()) - 1 for line in _text_of("/proc/self/status") if line.startswith("NSpid:"))


def _text_of(path: str) -> list[str]:
    with open(path) as file:
        return file.read().splitlines()


def kill(pidfd: int) -> None:
    """SIGKILL, if it still lives."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


async def readable(fd: int, seconds: float) -> bool:
    """Whether the descriptor becomes readable within that time; without a thread."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    # A descriptor of our own: the caller may watch the same one already.
    watched = os.dup(fd)
    loop.add_reader(watched, _set, ready)
    try:
        await asyncio.wait_for(ready, max(0.0, seconds))
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(watched)
        os.close(watched)
    return True


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
