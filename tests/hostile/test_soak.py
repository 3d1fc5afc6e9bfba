"""A thousand hostile runs in a random order that can be had again, and then: the machine as before, no memory lost."""

from __future__ import annotations

import contextlib
import os
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from tests import docker_engine
from tests.hostile.conftest import Arena
from tests.platforms import Traces, command_line, descendants, eventually

RUNS = int(os.environ.get("FAASPOT_TEST_SOAK_RUNS", "1000"))
WARM_UP = 800
"""Runs before the memory is first looked at: the heaps of the web processes have their size then."""
AT_ONCE = 4
GROWTH = 1.1
LEFT_SECONDS = 10
SETTINGS: dict[str, Any] = {"memory": 64, "pids": 24, "timeout": 2, "tmp": 8}

FUNCTIONS = {
    "forks": """
        import os, time
        def main(args, context):
            for _ in range(100):
                try:
                    if os.fork() == 0:
                        os.setsid()
                        time.sleep(60)
                except OSError:
                    break
            return "left them"
    """,
    "memory": "def main(args, context):\n    return len(bytearray(500 << 20))\n",
    "shared memory": """
        import os
        def main(args, context):
            with open("/dev/shm/x", "wb") as file:
                while True:
                    file.write(bytes(1 << 20))
    """,
    "disk": """
        def main(args, context):
            for number in range(10**6):
                open(f"/tmp/{number}", "w").close()
    """,
    "descriptors": """
        import socket
        def main(args, context):
            kept = []
            while True:
                kept.append(socket.socketpair())
    """,
    "flood": "def main(args, context):\n    print('x' * 3_000_000)\n    return 1\n",
    "endless": "def main(args, context):\n    while True: pass\n",
    "exit": "import os\ndef main(args, context):\n    os._exit(3)\n",
    "abort": "import os\ndef main(args, context):\n    os.abort()\n",
    "segfault": "import ctypes\ndef main(args, context):\n    ctypes.string_at(0)\n",
    "kill all": "import os\ndef main(args, context):\n    os.kill(-1, 9)\n    return 1\n",
    "forged frame": """
        import os, socket, stat
        def main(args, context):
            for fd in range(3, 64):
                try:
                    if stat.S_ISSOCK(os.fstat(fd).st_mode):
                        os.write(fd, b"\\xff\\xff\\xff\\xff" + b"{" * 1000)
                except OSError:
                    pass
            return 1
    """,
    "unserialisable": "def main(args, context):\n    return object()\n",
    "large result": "def main(args, context):\n    return 'x' * (8 << 20)\n",
    "raises": "def main(args, context):\n    raise RuntimeError('x' * 100_000)\n",
}
SELDOM = {"endless": 1, "disk": 3, "shared memory": 3}
"""How often those are drawn that take a second or more; the others 10."""


def machine(arena: Arena) -> set[str]:
    """What runs could leave: on this host, of the platform's processes, in the engine. Sandboxes are counted elsewhere:
    the innocent's may be another one by now, and workers keep the groups of their runs for the next.
    """
    assert arena.platform.process is not None
    lines = {command_line(pid) or "a zombie" for pid in descendants(arena.platform.process.pid)}
    groups = {path for top in Path("/sys/fs/cgroup").glob("*") for path in top.glob("*faaspot*/*/")}
    found = {each for kind in astuple(Traces.now()) for each in kind}
    found |= {
        line
        for line in lines
        if not any(each in line for each in ("agent.__main__", "sandbox.launcher", "/agent/base.py"))
    }
    found |= {str(path) for path in groups if not path.name.startswith("r-") or busy(path)}
    if arena.runtime == "docker":
        found |= set(docker_engine.objects(docker_engine.platform_of(arena.platform.data)))
    return found


def busy(group: Path) -> bool:
    """Whether a process is in it."""
    with contextlib.suppress(OSError):
        return bool((group / "cgroup.procs").read_text())
    return False


def memory_mb(arena: Arena) -> float:
    """What our own long-lived processes hold, pages that they share counted once."""
    assert arena.platform.process is not None
    held = 0
    for pid in [arena.platform.process.pid, *descendants(arena.platform.process.pid)]:
        if "faaspot" in command_line(pid):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                held += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return held / 1024


def drawn(seed: int, count: int) -> list[str]:
    names = list(FUNCTIONS)
    chosen = random.Random(seed)
    return chosen.choices(names, [SELDOM.get(name, 10) for name in names], k=count)


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_hostile_runs_leave_the_machine_and_our_memory_as_they_were(arena: Arena) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    before = machine(arena)
    with arena.deployed_all(FUNCTIONS, **SETTINGS) as deployed, ThreadPoolExecutor(AT_ONCE) as threads:

        def run(name: str) -> None:
            execution = arena.platform.run(deployed[name]).headers["Execution-Id"]
            record = arena.platform.ended(execution, 10)
            assert record["status"] == "Success" or record["reason"], (name, record)
            assert record["reason"] not in ("worker_lost", "no_spot"), (name, record)

        def play(names: list[str]) -> None:
            list(threads.map(run, names))

        order = drawn(seed, WARM_UP + RUNS)
        play(order[:WARM_UP])
        held = memory_mb(arena)
        play(order[WARM_UP:])
        arena.healthy()
        assert memory_mb(arena) < held * GROWTH, f"it was {held:.0f} MB after {WARM_UP} runs"
    with contextlib.suppress(AssertionError):
        eventually(lambda: machine(arena) <= before, LEFT_SECONDS)
    assert machine(arena) - before == set()
