"""`min_warm`: a deployment that asks for it stands ready before its first run, and again when its sandbox has died."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from tests.e2e.test_first_run import removed
from tests.platforms import Platform, descendants, eventually

CODE = """\
print("imported")

def main(args, context):
    return args["n"]
"""


def ready(platform: Platform) -> set[int]:
    """Pids of the zygotes that have forked a process ahead: their import is done, and they are no blanks."""
    return {pid for pid in zygotes(platform) if descendants(pid)}


def zygotes(platform: Platform) -> set[int]:
    """They are in two pid namespaces below the platform's, and what they fork is in three."""
    assert platform.process is not None
    found = set()
    for pid in descendants(platform.process.pid):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            depth = next(len(line.split()) - 1 for line in status.splitlines() if line.startswith("NSpid:"))
            if Path(f"/proc/{pid}/comm").read_text() == "faaspot-zygote\n" and depth == own_depth() + 2:
                found.add(pid)
    return found


def own_depth() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(len(line.split()) - 1 for line in status if line.startswith("NSpid:"))


def test_it_stands_ready_before_anybody_runs_it_and_is_replaced_when_it_dies(platform: Platform) -> None:
    removed(platform, "ready")
    before = ready(platform)
    platform.deploy("ready", CODE, min_warm=1)
    (zygote,) = eventually(lambda: ready(platform) - before, 20, "its sandbox stands ready")
    first = platform.run("ready", {"n": 1})
    record = platform.record(first.headers["Execution-Id"])
    assert (first.json, record["timings"]["cold"]) == (1, False)
    assert platform.logs(first.headers["Execution-Id"]) == "imported\n"
    os.kill(zygote, signal.SIGKILL)
    eventually(lambda: ready(platform) - before - {zygote}, 20, "another one stands ready")
    again = platform.run("ready", {"n": 2})
    assert (again.json, platform.record(again.headers["Execution-Id"])["timings"]["cold"]) == (2, False)
    platform.undeploy("ready")
    eventually(lambda: not ready(platform) - before, 5, "nothing of it is left")
