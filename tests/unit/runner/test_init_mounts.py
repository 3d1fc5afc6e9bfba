"""The mounts that a sandbox's init gives to a run, in each way in which it can make them."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from faaspot_runner.agent import syscalls as kernel
from faaspot_runner.sandbox.init import Init
from faaspot_runner.sandbox.mounts import make_private, mount_proc

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces without a user's")]


def pidns_known() -> bool:
    """Whether this kernel makes the /proc of a pid namespace that it is told: Linux 6.18 and later."""
    return tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 18)


@pytest.mark.parametrize("steps_in", [pytest.param(True, id="steps in"), pytest.param(False, id="by a maker")])
def test_a_run_gets_an_empty_tmp_and_the_proc_of_its_own_namespace(steps_in: bool, tmp_path: Path) -> None:
    mark = Path("/tmp") / f"faaspot-mark-{os.getpid()}"
    mark.touch()
    try:
        seen = told(lambda: as_init(steps_in))
    finally:
        mark.unlink()
    assert seen["run"] == {"tmp": [], "shm": [], "own": "1", "others": []}
    assert seen["back"] is True
    assert seen["again"] == "EPERM"
    assert seen["steps_in"] is (steps_in and pidns_known())


def told(program: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a program says that is pid 1 of namespaces of its own."""
    read, write = os.pipe()
    outer = os.fork()
    if outer == 0:
        kernel.unshare(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC)
        inner = os.fork()
        if inner == 0:
            say(write, program)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) & 0xFF)
    os.close(write)
    with open(read) as answer:
        text = answer.read()
    assert os.waitpid(outer, 0)[1] == 0, text
    result: dict[str, Any] = json.loads(text)
    return result


def say(descriptor: int, program: Callable[[], dict[str, Any]]) -> NoReturn:
    status = 1
    try:
        os.write(descriptor, json.dumps(program()).encode())
        status = 0
    except BaseException:  # noqa: BLE001 (all of it is told)
        os.write(descriptor, traceback.format_exc().encode())
    finally:
        os._exit(status)


def as_init(steps_in: bool) -> dict[str, Any]:
    """Give mounts to a run; what it sees, whether we are back among our own mounts, and what a second asking gets."""
    make_private()
    mount_proc("/")
    before = os.stat("/").st_dev, sorted(os.listdir("/tmp"))
    control, requests = socket.socketpair()
    init = Init(-1, control, requests, tmp_mb=8, watched=True)
    if not steps_in:
        init._steps_in = False
    pid, go_on, answer = run()
    init._give(pid)
    go_on()
    seen = answer()
    try:
        init._give(pid)
        again = "given"
    except OSError as error:
        again = {1: "EPERM"}.get(error.errno or 0, str(error))
    back = before == (os.stat("/").st_dev, sorted(os.listdir("/tmp")))
    os.kill(pid, signal.SIGKILL)
    return {"run": seen, "back": back, "again": again, "steps_in": init._steps_in}


def run() -> tuple[int, Callable[[], object], Callable[[], Any]]:
    """A process like a run's, first of a pid namespace: its pid, what lets it look, what it saw."""
    start_read, start = os.pipe()
    answer_read, answer_write = os.pipe()
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    kernel.unshare(kernel.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        kernel.unshare(kernel.CLONE_NEWNS)
        os.write(answer_write, b"here\n")
        os.read(start_read, 1)
        os.write(answer_write, json.dumps(look()).encode() + b"\n")
        signal.pause()
        sys.exit(1)
    kernel.setns(own, kernel.CLONE_NEWPID)
    lines = os.fdopen(answer_read)
    assert lines.readline() == "here\n"
    return pid, lambda: os.write(start, b"x"), lambda: json.loads(lines.readline())


def look() -> dict[str, Any]:
    numbers = sorted(name for name in os.listdir("/proc") if name.isdigit())
    return {
        "tmp": os.listdir("/tmp"),
        "shm": os.listdir("/dev/shm"),
        "own": os.readlink("/proc/self"),
        "others": [number for number in numbers if number != "1"],
    }
