"""The CPythons of this machine that functions may use.

Only interpreters of the host are started here, isolated and without site-packages (`-I -S -E`), to ask what they are.
An environment's `bin/python` is never one of them: those are links that lead nowhere outside a sandbox.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faaspot_runner.sandbox.spec import Interpreter

OLDEST = (3, 8)
OWN_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

_NAME = re.compile(r"python3(\.[0-9]+)?")
_SYSTEM_DIRECTORIES = (Path("/usr/bin"), Path("/usr/local/bin"))
_ASK_SECONDS = 20.0
_ASK = """
import json, os, sys, sysconfig
print(json.dumps({
    "implementation": sys.implementation.name,
    "version": list(sys.version_info[:3]),
    "final": sys.version_info[3] == "final",
    "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "prefix": os.path.realpath(sys.base_prefix),
    "abi": sysconfig.get_config_var("SOABI") or "",
    "threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
}))
"""


def discover(environ: Mapping[str, str]) -> dict[str, Interpreter]:
    """Minor version ("3.11") -> interpreter: CPython 3.8+, the platform's own minor version first, then the newest.

    `environ`: the platform's environment, for PATH, HOME and PYENV_ROOT. Looks on PATH, in /usr/bin, and at pyenv's
    versions, in this order, and takes the first of each minor version that starts; what this process may not execute
    is left out. pyenv's come last even if PATH has them first: they are built without profile-guided optimisation
    and run functions at about half the speed.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        answers = pool.map(_ask, _candidates(environ))
        found: dict[str, Interpreter] = {}
        for interpreter in answers:
            if interpreter:
                found.setdefault(interpreter.version, interpreter)
    return {version: found[version] for version in sorted(found, key=_rank, reverse=True)}


def _rank(version: str) -> tuple[bool, int]:
    return version == OWN_VERSION, int(version.split(".")[1])


def _candidates(environ: Mapping[str, str]) -> list[Path]:
    """Real files of programs that may be interpreters, each once, in order of preference."""
    pyenv = _pyenv_root(environ)
    on_path = [Path(directory) for directory in environ.get("PATH", "").split(os.pathsep) if os.path.isabs(directory)]
    named = [*_named_in(on_path), *_named_in(_SYSTEM_DIRECTORIES), Path(sys.executable)]
    named += _named_in(sorted(_version_directories(pyenv), key=_natural, reverse=True))
    programs = dict.fromkeys(path.resolve() for path in named)
    return sorted(filter(_is_program, programs), key=lambda path: path.is_relative_to(pyenv))


def _pyenv_root(environ: Mapping[str, str]) -> Path:
    said = environ.get("PYENV_ROOT")
    return Path(said) if said else Path(environ.get("HOME") or "/nonexistent") / ".pyenv"


def _version_directories(pyenv: Path) -> list[Path]:
    """None if it is not there, or not ours to read: an ordinary user may have root's PYENV_ROOT from su or sudo."""
    try:
        return [pyenv / "versions" / version / "bin" for version in os.listdir(pyenv / "versions")]
    except OSError:
        return []


def _named_in(directories: Iterable[Path]) -> Iterator[Path]:
    for directory in directories:
        try:
            names = [name for name in os.listdir(directory) if _NAME.fullmatch(name)]
        except OSError:
            continue
        yield from (directory / name for name in sorted(names, key=_natural, reverse=True))


def _natural(path: Path | str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]


def _is_program(path: Path) -> bool:
    """An executable binary. Scripts named python, as pyenv's shims are, lead to the same programs by a detour."""
    if not os.access(path, os.X_OK):
        return False
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def _ask(program: Path) -> Interpreter | None:
    """What this program says it is, None if it is not a CPython that functions may use."""
    try:
        answer = subprocess.run(
            [program, "-I", "-S", "-E", "-B", "-c", _ASK],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASK_SECONDS, check=True, env={}, cwd="/",
        )  # fmt: skip
        facts = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    usable = facts["implementation"] == "cpython" and facts["final"] and not facts["threaded"]
    executable, prefix = Path(facts["executable"]), Path(facts["prefix"])
    if not usable or tuple(facts["version"][:2]) < OLDEST or not executable.is_relative_to(prefix):
        return None
    major, minor, micro = facts["version"]
    return Interpreter(
        executable=executable,
        prefix=prefix,
        version=f"{major}.{minor}",
        full_version=f"{major}.{minor}.{micro}",
        abi=facts["abi"],
    )
