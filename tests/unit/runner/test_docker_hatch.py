"""The launcher that goes into containers: it starts by any interpreter that an image may have."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from faaspot_runner.docker import hatch
from faaspot_runner.environments.interpreters import discover
from faaspot_runner.sandbox.spec import Interpreter

INTERPRETERS = discover(dict(os.environ))


@pytest.mark.parametrize("python", INTERPRETERS.values(), ids=INTERPRETERS)
def test_its_program_imports_by_the_image_s_interpreter_alone(tmp_path: Path, python: Interpreter) -> None:
    hatch.pack(tmp_path / hatch.PROGRAM)
    code = f"import sys; sys.path.insert(0, {str(tmp_path / hatch.PROGRAM)!r}); "
    code += "import faaspot_runner.sandbox.launcher as l; "
    code += "print(l.__file__, l.Plan([], [], {}, {}, 1, [], {}, '', [], False).image)"
    said = subprocess.check_output([python.executable, "-I", "-S", "-c", code], text=True)
    assert said.split() == [f"{tmp_path / hatch.PROGRAM}/faaspot_runner/sandbox/launcher.py", "False"]


def test_a_hatch_is_open_to_its_container_alone_and_leaves_nothing(tmp_path: Path) -> None:
    hatch.pack(tmp_path / hatch.PROGRAM)
    long = tmp_path / ("d" * 100)
    long.mkdir(mode=0o700)
    before = os.umask(0o077)
    try:
        made = hatch.Hatch(long, tmp_path / hatch.PROGRAM)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (made.path, *made.path.iterdir())}
    assert modes == {made.path.name: 0o711, hatch.PROGRAM: 0o444, hatch.SOCKET: 0o666}
    made.close()
    assert list(long.iterdir()) == []
