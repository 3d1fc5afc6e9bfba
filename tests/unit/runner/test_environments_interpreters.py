"""Finding the interpreters of a machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from faaspot_runner.environments import interpreters
from faaspot_runner.sandbox.spec import Interpreter
from tests.ordinary import as_ordinary_user

FAKE = """#!/bin/sh
touch {marker}
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Interpreter]:
    return interpreters.discover(os.environ)


def test_the_platforms_own_minor_version_comes_first_and_then_the_newest(
    found: dict[str, Interpreter],
) -> None:
    versions = list(found)
    assert versions[0] == interpreters.OWN_VERSION
    others = [tuple(map(int, version.split("."))) for version in versions[1:]]
    assert others == sorted(others, reverse=True)
    assert all(version >= interpreters.OLDEST for version in others)


def test_what_is_found_is_a_real_file_below_its_prefix(found: dict[str, Interpreter]) -> None:
    for version, interpreter in found.items():
        assert interpreter.version == version
        assert interpreter.full_version.startswith(version + ".")
        assert interpreter.executable.resolve() == interpreter.executable
        assert interpreter.executable.is_relative_to(interpreter.prefix)
        assert interpreter.abi.startswith(f"cpython-{version.replace('.', '')}")
        assert not (interpreter.prefix / "pyvenv.cfg").exists()


def test_the_systems_interpreter_is_preferred_to_one_of_pyenv() -> None:
    """pyenv's are slower; /usr/bin wins even if PATH has pyenv first."""
    system = Path("/usr/bin/python3")
    if not system.exists():
        pytest.skip("there is no /usr/bin/python3")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    version = system.resolve().name.removeprefix("python")
    path = os.pathsep.join([str(path) for path in pyenv.glob(f"versions/{version}.*/bin")] + ["/usr/bin"])
    found = interpreters.discover({**os.environ, "PATH": path})
    assert found[version].executable == system.resolve()


def test_scripts_named_python_are_not_started(tmp_path: Path) -> None:
    script = tmp_path / "python3"
    script.write_text(FAKE.format(marker=tmp_path / "started"))
    script.chmod(0o755)
    found = interpreters.discover({"PATH": str(tmp_path)})
    assert not (tmp_path / "started").exists()
    assert interpreters.OWN_VERSION in found


def test_a_virtual_environment_on_path_leads_to_its_base() -> None:
    found = interpreters.discover({"PATH": str(Path(sys.executable).parent)})
    own = found[interpreters.OWN_VERSION]
    assert not own.executable.is_relative_to(Path(sys.prefix)) or sys.prefix == sys.base_prefix


def test_a_program_that_is_no_interpreter_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "python3.99").symlink_to("/bin/true")
    assert "3.99" not in interpreters.discover({"PATH": str(tmp_path)})


def test_relative_directories_on_path_are_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    candidates = interpreters._candidates({"PATH": "bin:."})
    assert not any(path.is_relative_to(tmp_path) for path in candidates)


def test_a_pyenv_that_may_not_be_read_is_passed_over(tmp_path: Path) -> None:
    def check() -> None:
        interpreters.discover({"PATH": "/usr/bin", "PYENV_ROOT": str(tmp_path / "pyenv")})

    (tmp_path / "pyenv" / "versions").mkdir(parents=True)
    (tmp_path / "pyenv").chmod(0)
    as_ordinary_user(check)
    (tmp_path / "pyenv").chmod(0o700)
