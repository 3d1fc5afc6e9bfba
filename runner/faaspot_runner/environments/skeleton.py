"""An environment without packages: what virtualenv makes for an interpreter, moved to where a sandbox has it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from faaspot_runner.environments.errors import BuildError
from faaspot_runner.environments.tree import FILE_MODE
from faaspot_runner.sandbox.spec import Interpreter

_SECONDS = 60.0


def make_skeleton(interpreter: Interpreter, *, data: Path, path: Path) -> None:
    """Make it at `path`, which must not be there. `data`: virtualenv's own cache. Raises BuildError.

    virtualenv starts the host's interpreter to ask it what it is; nothing of a deployment exists yet.
    """
    command: list[str | Path] = [sys.executable, "-m", "virtualenv", "--quiet", "--app-data", data]
    command += ["--no-download", "--no-periodic-update", "--without-pip", "--activators", ""]
    command += ["--python", interpreter.executable, path]
    try:
        subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=True,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(data)}, cwd="/",
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise BuildError(f"No environment can be made for CPython {interpreter.full_version}: {last[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError("Making an empty environment took too long.", reason="timeout") from error
    _move_into_sandbox(interpreter, path)


def _move_into_sandbox(interpreter: Interpreter, path: Path) -> None:
    """Make it an environment of the interpreter as a sandbox has it, at /python, and drop what only a shell needs."""
    home = os.path.dirname(interpreter.inside)
    configuration = path / "pyvenv.cfg"
    configuration.write_text(
        f"home = {home}\nimplementation = CPython\nversion = {interpreter.full_version}\n"
        "include-system-site-packages = false\n"
    )
    configuration.chmod(FILE_MODE)
    for name in ("CACHEDIR.TAG", ".gitignore"):
        (path / name).unlink(missing_ok=True)
    for script in (path / "bin").iterdir():
        script.unlink()
    (path / "bin" / "python").symlink_to(interpreter.inside)
    for name in ("python3", f"python{interpreter.version}"):
        (path / "bin" / name).symlink_to("python")
    site = path / interpreter.site_packages
    shutil.rmtree(site)
    site.mkdir()
