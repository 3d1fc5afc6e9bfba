"""The memory of a whole sandbox where no cgroup counts it: what an import starts, and what it hides among the runs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.runner.sandboxes import Stage, eventually

HOARD = """
import ctypes, os, time
own = os.open("/proc/self/ns/pid", os.O_RDONLY)
libc = ctypes.CDLL(None)

def hold():
    held = bytearray(60 << 20)
    for at in range(0, len(held), 4096):
        held[at] = 1
    time.sleep(600)

def children():
    return os.fork()

def orphans():
    return os.fork() or os.fork() and os._exit(0)

def hidden():
    "In pid namespaces of their own, as runs are."
    libc.unshare(0x20000000)
    child = os.fork()
    if child:
        libc.setns(own, 0x20000000)
    return child

def hoard(start):
    for _ in range(12):
        if start() == 0:
            hold()
"""
MAIN = "\ndef main(args, context):\n    time.sleep(args.get('seconds', 0))\n    return 'lived'\n"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    stage = Stage("user")
    yield stage
    stage.close()


@pytest.mark.parametrize("start", ["children", "orphans", "hidden"])
def test_an_import_that_takes_too_much_fails_for_its_memory(stage: Stage, start: str) -> None:
    answer = stage.runs(f"{HOARD}\nhoard({start})\ntime.sleep(10)\n{MAIN}", limits={"memory": 64})
    assert answer["failed"]["reason"] == "oom", answer
    assert answer["failed"]["type"] == "OutOfMemory"


@pytest.mark.parametrize("start", ["children", "hidden"])
def test_what_an_import_takes_later_ends_its_sandbox(stage: Stage, start: str) -> None:
    """Where it hides among the runs, the runs that there are have their share."""
    code = f"""
{HOARD}
def later():
    time.sleep(0.5)
    hoard({start})
import threading
threading.Thread(target=later, daemon=True).start()
{MAIN}
"""
    answer = stage.runs(code, limits={"memory": 64, "timeout": 12}, args={"seconds": 10})
    assert answer["outcomes"][0]["reason"] == "lost", answer
    assert not answer["alive"]


def test_files_of_an_import_and_its_processes_count_together(stage: Stage) -> None:
    code = f"""
{HOARD}
for name in ("/tmp/a", "/dev/shm/b"):
    with open(name, "wb") as file:
        for _ in range(150):
            file.write(b"x" * (1 << 20))
if children() == 0:
    hold()
time.sleep(10)
{MAIN}
"""
    answer = stage.runs(code, limits={"memory": 64, "tmp": 200})
    assert answer["failed"]["reason"] == "oom", answer


INNOCENT = {
    "shares what it holds with its children": (
        "held = os.urandom(1 << 20) * 150\nfor _ in range(8):\n    children() or time.sleep(600)\n"
    ),
    "has runs that share what it holds": "held = os.urandom(1 << 20) * 150\n",
}


@pytest.mark.parametrize("how", INNOCENT)
def test_what_is_shared_or_allowed_ends_nothing(stage: Stage, how: str) -> None:
    """Eight runs at once, for longer than a sum may be too high; counted one by one they would be far above it."""
    main = """
def main(args, context):
    mine = os.urandom(1 << 20) * 40
    time.sleep(3)
    return len(mine) >> 20
"""
    code = f"{HOARD}\n{INNOCENT[how]}\n{textwrap.dedent(main)}"
    answer: dict[str, Any] = stage.runs(code, limits={"memory": 128}, count=8, together=True)
    assert [each["output"] for each in answer["outcomes"]] == ["40"] * 8, answer
    assert answer["alive"]


def test_a_run_does_not_pay_for_what_its_import_holds(stage: Stage) -> None:
    """Though nobody but the zygote shares it with the run."""
    code = f"""
{HOARD}
held = os.urandom(1 << 20) * 150
def main(args, context):
    mine = os.urandom(1 << 20) * 40
    time.sleep(1)
    return len(mine) >> 20
"""
    assert stage.output(code, limits={"memory": 64}) == 40


def test_a_run_that_takes_too_much_leaves_its_sandbox_alive(stage: Stage) -> None:
    """It is its worker's to end, however much it takes at once."""
    code = f"{HOARD}\ndef main(args, context):\n    hoard(children)\n    time.sleep(10)\n"
    answer = stage.runs(code, limits={"memory": 64})
    assert answer["outcomes"][0]["reason"] == "oom", answer
    assert eventually(lambda: stage.runs(code, limits={"memory": 64})["alive"])


def test_buffers_cannot_be_enlarged_by_an_import(stage: Stage) -> None:
    code = """
    import fcntl, os, socket
    read, write = os.pipe()
    try:
        fcntl.fcntl(write, 1031, 1 << 20)
        seen = "larger"
    except PermissionError:
        seen = "refused"
    one, other = socket.socketpair()
    before = one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, before // 4)
    def main(args, context):
        return [seen, fcntl.fcntl(write, 1032), one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before]
    """
    assert stage.output(code) == ["refused", 65536, True]


def test_files_in_mounts_that_an_import_made_for_itself_are_counted(stage: Stage) -> None:
    """Each of its processes has its own, as runs have, and then executes a program that may not be read."""
    code = f"""
{HOARD}
import shutil, sys
frame = sys._getframe()
while "child" not in frame.f_globals:
    frame = frame.f_back
_ask_for_mounts = frame.f_globals["child"]._ask_for_mounts
def fill():
    libc.unshare(0x08020000)
    _ask_for_mounts()
    with open("/tmp/a", "wb") as file:
        for _ in range(90):
            file.write(b"x" * (1 << 20))
    shutil.copy("/usr/bin/sleep", "/tmp/sleep")
    os.chmod("/tmp/sleep", 0o111)
    os.execv("/tmp/sleep", ["sleep", "600"])
for _ in range(8):
    child = hidden()
    if child == 0:
        fill()
    while os.path.exists(f"/proc/{{child}}"):
        pass
time.sleep(5)
{MAIN}
"""
    answer = stage.runs(code, limits={"memory": 64, "tmp": 100})
    assert answer["failed"]["reason"] == "oom", answer
