"""The watch over a run's memory, against programs that take it in each way they can (`watched.py`).

As root each runs twice: as root and as an ordinary user, who sees less of /proc.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from faaspot_runner.sandbox.features import missing_for_sandbox
from faaspot_runner.sandbox.memory import MemoryWatch
from tests.ordinary import as_ordinary_user

PROGRAM = Path(__file__).with_name("watched.py")
NOBODY = 65534
USERS = ("root", "ordinary") if os.geteuid() == 0 else ("ordinary",)
LIMIT = 100

pytestmark = pytest.mark.skipif(
    bool(missing_for_sandbox()), reason=f"the kernel lacks {', '.join(each.name for each in missing_for_sandbox())}"
)


def watched(way: str, user: str, *options: str, limit: int = LIMIT) -> dict[str, Any]:
    switch: dict[str, Any] = {}
    python = sys.executable
    if user == "ordinary" and os.geteuid() == 0:
        python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or pytest.skip("no python3 open to all")
        switch = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    done = subprocess.run(
        [python, str(PROGRAM), way, str(limit), *options], capture_output=True, text=True, timeout=60, **switch
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    "way",
    [
        "anonymous", "processes", "orphans", "files", "unnamed", "pipes", "sockets", "flying", "streams", "tables",
        "mappings", "leaderless", "hidden", "hidden_pipes", "forked",
    ],
)  # fmt: skip
def test_memory_is_charged_whichever_way_it_is_taken(way: str, user: str) -> None:
    # What pipes hold is bounded by the kernel for each user: 64 MB.
    assert watched(way, user, limit=64 if way.endswith("pipes") else LIMIT)["over"]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("way", ["innocent_forks", "innocent_inheritance", "innocent_sharing", "innocent_threads"])
def test_what_is_shared_or_ordinary_is_not_charged_twice(way: str, user: str) -> None:
    seen = watched(way, user, "--fixed-buffers")
    assert not seen["over"], seen
    assert seen["tasks"] == {"innocent_forks": 9, "innocent_sharing": 3, "innocent_threads": 21}.get(way, 1)
    if way == "innocent_threads":
        assert seen["cpu_ms"] > 0


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file that its runner cannot read")
def test_memory_of_a_process_that_nobody_may_look_into_is_charged() -> None:
    home = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        home.chmod(0o755)
        python = shutil.copy(os.path.realpath(shutil.which("python3", path="/usr/bin") or ""), home)
        Path(python).chmod(0o711)
        assert watched("unreadable", "ordinary", python)["over"]
    finally:
        shutil.rmtree(home)


@pytest.mark.parametrize("way", ["sockets", "flying"])
def test_sockets_that_cannot_be_enlarged_are_charged_their_default(way: str) -> None:
    assert watched(way, USERS[-1], "--fixed-buffers")["over"]


def test_a_run_that_is_gone_costs_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input('up')"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child, MemoryWatch(child.pid) as watch:
        assert child.stdout is not None
        assert child.stdout.read(2) == b"up"  # before that it may hold hardly anything yet
        assert watch.charged_mb(1000) > 1
        peak = watch.peak_mb()
        assert peak > 1
        child.communicate(b"\n")
        assert watch.charged_mb(1000) == 0
        assert watch.peak_mb() == peak
    with pytest.raises(ProcessLookupError):
        MemoryWatch(child.pid)


def test_a_run_that_is_dead_and_not_waited_for_is_gone() -> None:
    """The kernel gives what is left of it to root: to an ordinary user its descriptors are those of a stranger."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    def check() -> None:
        with pytest.raises(ProcessLookupError):
            MemoryWatch(child.pid)

    as_ordinary_user(check)
    child.wait()


def test_a_process_that_we_may_not_look_into_is_refused() -> None:
    def check() -> None:
        with pytest.raises(PermissionError):
            MemoryWatch(1)

    as_ordinary_user(check)
