"""Asks a driver process to run code in sandboxes, as root and as an ordinary user; what the sandbox tests share."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import faaspot_runner
from tests import docker_engine

ORDINARY_UID = 65_534
GRADES = ("root", "user") if os.geteuid() == 0 else ("user",)
PLANTED = "planted-secret-4b1d"
"""In the driver's environment and in a file that it has open: no run may ever see it."""

TRY = """
def attempt(what, *args):
    try:
        return "done: %r" % (what(*args),)
    except OSError as error:
        import errno
        return errno.errorcode.get(error.errno, str(error))
    except Exception as error:
        return type(error).__name__

import ctypes, os
_libc = ctypes.CDLL(None, use_errno=True)
def syscall(number, *args):
    args = [ctypes.c_char_p(arg) if isinstance(arg, bytes) else ctypes.c_long(arg) for arg in args]
    result = _libc.syscall(ctypes.c_long(number), *args)
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
"""
"""Goes before hostile code: `attempt(f, ...)` is "done: ..." or the errno's name; `syscall(number, ...)`."""


@cache
def ordinary_python() -> str | None:
    """A Python 3.11+ that an ordinary user can start."""
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        check = [path, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            if subprocess.run(check, user=ORDINARY_UID if os.geteuid() == 0 else None, check=False).returncode == 0:
                return path
        except OSError:
            continue
    return None


@cache
def readable_runner() -> Path:
    """A copy of the runner, and of the one library that it needs, that everybody can read."""
    place = Path(tempfile.mkdtemp(prefix="faaspot-sandbox-tests-"))
    atexit.register(shutil.rmtree, place)
    place.chmod(0o755)
    source = Path(faaspot_runner.__file__).parent
    shutil.copytree(source, place / "faaspot_runner", ignore=shutil.ignore_patterns("__pycache__"))
    import pyseccomp

    shutil.copy(pyseccomp.__file__, place)
    shutil.copy(Path(__file__).parent / "sandbox_driver.py", place)
    return place


def eventually(check: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether it becomes true in time; for what other processes do."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class Stage:
    """A driver process. Ask it by `run`."""

    def __init__(self, grade: str, runtime: str = "sandbox", blanks: int = 0) -> None:
        self.grade = grade
        self.blanks = blanks
        self.runtime = runtime
        python = sys.executable if grade == "root" else ordinary_python()
        if python is None:
            pytest.skip("no Python 3.11+ here that an ordinary user can start")
        place = readable_runner()
        drop = grade == "user" and os.geteuid() == 0
        secret, write = os.pipe()
        os.write(write, PLANTED.encode())
        os.close(write)
        self.process = subprocess.Popen(
            [python, "-X", "dev", "-W", "error", str(place / "sandbox_driver.py"), runtime, str(blanks)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                "PYTHONPATH": str(place),
                "PATH": os.environ["PATH"],
                "SECRET": PLANTED,
                "FAASPOT_TEST_DOCKER_IMAGE": docker_engine.IMAGE,
            },
            cwd="/",
            umask=0o077,  # as careful people and platforms have it
            pass_fds=[secret],
            user=ORDINARY_UID if drop else None,
            group=ORDINARY_UID if drop else None,
            extra_groups=[] if drop else None,
        )
        os.close(secret)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The driver's answer to one request."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the driver died: see its stderr above"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def runs(self, code: str, **more: Any) -> dict[str, Any]:
        """The whole answer of a `run` request for this code."""
        return self.ask(op="run", code=textwrap.dedent(code), **more)

    def run(self, code: str, **more: Any) -> dict[str, Any]:
        """The one outcome of the code. `more`: args, limits, python ..."""
        answer = self.runs(code, **more)
        assert "outcomes" in answer, answer
        outcome: dict[str, Any] = answer["outcomes"][-1]
        return outcome

    def output(self, code: str, **more: Any) -> Any:
        """What the code's `main` returned."""
        outcome = self.run(code, **more)
        assert outcome["status"] == "Success", outcome
        return json.loads(outcome["output"])

    def hostile(self, code: str, **more: Any) -> Any:
        """The same, with `attempt` and `syscall` at hand."""
        return self.output(TRY + textwrap.dedent(code), **more)

    def close(self) -> None:
        """End the driver; it must leave in peace."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(20) == 0
        if self.process.stdout is not None:
            self.process.stdout.close()
