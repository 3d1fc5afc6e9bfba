"""What a sandbox is made of, host side: interpreter, binds, and the numbers that it is built with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BASE_ENVIRON = {
    "PATH": "/env/bin:/usr/bin:/bin",
    "HOME": "/tmp",  # noqa: S108 (inside the sandbox it is a run's own tmpfs)
    "TMPDIR": "/tmp",  # noqa: S108
    "LANG": "C.UTF-8",
    "TZ": "UTC",
}
"""The environment variables of a function, without the two that name its execution."""

SYSTEM_PREFIXES = (Path("/usr"), Path("/usr/local"))
"""Prefixes that stay where they are inside a sandbox, because their libraries are found by the system's own paths."""


def run_environ(execution_id: str, attempt: int, traceparent: str | None = None) -> dict[str, str]:
    """Exactly the environment variables that one run sees."""
    own = {**BASE_ENVIRON, "FAASPOT_EXECUTION_ID": execution_id, "FAASPOT_ATTEMPT": str(attempt)}
    return own if traceparent is None else {**own, "TRACEPARENT": traceparent}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A CPython of this machine. Found by looking, never by starting it with a deployment's packages.

    `executable`: the real file, no link of a virtual environment. `prefix`: its `sys.base_prefix`.
    `version`: "3.11", `full_version`: "3.11.2". Inside a sandbox the prefix is at `/python`.
    """

    executable: Path
    prefix: Path
    version: str
    full_version: str
    abi: str = ""
    """What its binary packages are made for: `cpython-311-x86_64-linux-gnu`."""
    platform: str = ""
    """Empty for this machine's own system, else the system that it stands for, in uv's words: an image's. Then
    `executable` and `prefix` are those of this machine's interpreter of the same minor version."""

    @property
    def identity(self) -> str:
        """What makes the same lock two environments: interpreters with equal identities share them."""
        return f"CPython {self.full_version} {self.abi} {self.platform}".rstrip()

    @property
    def system(self) -> bool:
        """Whether its prefix keeps its place inside a sandbox (`/python` is then a link to it)."""
        return self.prefix in SYSTEM_PREFIXES

    @property
    def inside(self) -> str:
        """Path of the executable inside a sandbox: `/python/bin/python3.11`."""
        return "/python/" + str(self.executable.relative_to(self.prefix))

    @property
    def site_packages(self) -> str:
        """Site-packages of an environment of this interpreter, relative to the environment: `lib/python3.11/...`."""
        return f"lib/python{self.version}/site-packages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What one deployment version is made of on this host.

    `code`: the source, as a file that only trusted parts write, or its bytes. `environment`: the published directory
    (its `bin/python*` point to `/python/bin/...`, its `pyvenv.cfg` says `home = /python/bin`), None without packages.
    """

    code: Path | bytes
    python: Interpreter
    environment: Path | None = None

    def source(self) -> bytes:
        """The code's bytes. Raises OSError."""
        return self.code if isinstance(self.code, bytes) else self.code.read_bytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A host file or directory that appears at `target` inside, read-only."""

    source: Path
    target: str
