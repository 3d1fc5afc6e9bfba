"""`fas restart`: asks the running supervisor for new processes in place of all that it can replace while it serves."""

from __future__ import annotations

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
    holder = _holder(directory)
    if holder is None:
        sys.stderr.write(f"faaspot: no platform runs on {directory.path}: start it with fas up\n")
        return CANNOT_WORK
    before = _last(directory.path)
    try:
        os.kill(holder, ASK)
    except PermissionError:
        sys.stderr.write(f"faaspot: the platform on {directory.path} is another user's (process {holder})\n")
        return CANNOT_WORK
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
    """The process of the supervisor that is up, and not on its way down."""
    try:
        pid, _, doing = directory.lock.read_text().strip().partition(" ")
    except FileNotFoundError:
        return None
    alive = pid.isdigit() and Path(f"/proc/{pid}").exists()
    return int(pid) if alive and doing != STOPPING else None


def _last(path: Path) -> tuple[float, str | None, str] | None:
    try:
        told = json.loads((path / FILE).read_text())
    except FileNotFoundError:
        return None
    return told["at"], told["problem"], told["done"]
