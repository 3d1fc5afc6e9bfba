"""`fas restart`: asks the running supervisor for new processes in place of all that it can replace while it serves."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

from faaspot_api.settings import Settings
from faaspot_api.supervisor.directory import STOPPING, DataDirectory, data_directory

FAILED, CANNOT_WORK = 1, 2
ASK = signal.SIGUSR2
FILE = "restart.json"
LOOK_SECONDS = 0.1


def restart(settings: Settings) -> int:
    """Ask, and wait until it is done; the exit status. The last line says how it went."""
    directory = data_directory(settings)
    try:
        return _restarted(directory)
    except PermissionError:
        sys.stderr.write(f"faaspot: the platform on {directory.path} is another user's\n")
        return CANNOT_WORK


def _restarted(directory: DataDirectory) -> int:
    holder = _holder(directory)
    if holder is None:
        sys.stderr.write(f"faaspot: no platform runs on {directory.path}: start it with fas up\n")
        return CANNOT_WORK
    before = _last(directory.path)
    os.kill(holder, ASK)
    while (now := _last(directory.path)) == before:
        if _holder(directory) != holder:
            sys.stderr.write("faaspot: the platform stopped meanwhile\n")
            return FAILED
        time.sleep(LOOK_SECONDS)
    _, problem, done = now or (0.0, None, "")
    sys.stderr.write(f"faaspot: {problem or done}\n")
    return FAILED if problem else 0


def tell(directory: DataDirectory, done: str, problem: str | None) -> None:
    """Say to who asked how it went."""
    text = json.dumps({"at": time.time(), "problem": problem, "done": done})
    directory.write(FILE, text.encode() + b"\n", 0o600)


def _holder(directory: DataDirectory) -> int | None:
    """The process of the supervisor that is up, and not on its way down. Raises PermissionError.

    Its number stays in the file of one that was killed, and is another process' some day: it counts only while the lock
    is held (by Redis, too, which may outlive it) and by who takes the signal, which would end anybody else.
    """
    try:
        with directory.lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid, _, doing = file.read().strip().partition(" ")
            else:
                return None
    except FileNotFoundError:
        return None
    return int(pid) if doing != STOPPING and pid.isdigit() and _takes(int(pid)) else None


def _takes(pid: int) -> bool:
    """Whether the process has a handler for our signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    caught = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:")), 0)
    return bool(caught >> (ASK - 1) & 1)


def _last(path: Path) -> tuple[float, str | None, str] | None:
    try:
        told = json.loads((path / FILE).read_text())
    except FileNotFoundError:
        return None
    return told["at"], told["problem"], told["done"]
