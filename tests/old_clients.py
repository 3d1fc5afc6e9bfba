"""The published clients, installed from the package index and started unmodified under Python 2.7."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

PACKAGES = {"fas-0.0.13": "fas==0.0.13", "fas-0.1.5": "fas==0.1.5", "faaspot-0.1.6": "faaspot==0.1.6"}
SECONDS = 300


class Platform(Protocol):
    """All that the old clients need to know of a platform."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def token(self) -> str: ...


def python27() -> str | None:
    """A Python 2.7 with pip: `FAASPOT_PYTHON27`, else pyenv's; None if there is none."""
    named = os.environ.get("FAASPOT_PYTHON27")
    if named:
        return named
    roots = (os.environ.get("PYENV_ROOT"), Path.home() / ".pyenv", "/root/.pyenv")
    for root in roots:
        try:
            found = sorted(Path(root).glob("versions/2.7*/bin/python")) if root else []
        except PermissionError:
            continue
        if found and os.access(found[-1], os.X_OK):
            return str(found[-1])
    return None


def install(python: str, client: str, site: Path) -> None:
    """Put a client and what it needs into the directory `site`, by pip."""
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(site)]
    done = subprocess.run([*command, PACKAGES[client]], capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class Said:
    """What a command put out. The old clients' exit code is 0 whatever happens, their tables go to stderr (W37)."""

    out: str
    err: str

    @property
    def uuid(self) -> str:
        """The execution id in it, bare or behind "Execution id: "."""
        return self.out.strip().removeprefix("Execution id: ")

    @property
    def result(self) -> str:
        """What a waiting command printed last, after its dots."""
        return self.out.strip().splitlines()[-1]

    def rows(self) -> list[list[str]]:
        """The cells of the table."""
        lines = [line for line in self.err.splitlines() if line.startswith("|")]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


@dataclass(frozen=True)
class OldClient:
    """One client with a home and a profile of its own. `deployments` and `spots` are its words for these."""

    name: str
    python: str
    site: Path
    home: Path
    platform: Platform
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def first(self) -> bool:
        """Whether it is of the 0.0 line."""
        return self.name == "fas-0.0.13"

    @property
    def deployments(self) -> str:
        return "deployments" if self.first else "functions"

    @property
    def spots(self) -> str:
        return "spots" if self.first else "nodes"

    def named(self, stem: str) -> str:
        """A deployment's name that the client accepts: the later ones insist on .py."""
        return stem if self.first else f"{stem}.py"

    def write_profile(self, **said: Any) -> None:
        """The profile file as its users edit it, because no command can set host, port and protocol (W35)."""
        here = {"host": self.platform.host, "port": self.platform.port, "protocol": "http"}
        profile = {**here, "token": self.platform.token, **said}
        text = json.dumps({"faaspot": {"profile": "here", "profiles": {"here": profile}}})
        (self.home / "fasconf.yaml").write_text(text)  # JSON is YAML

    def fas(self, *arguments: str) -> Said:
        """One command."""
        return self._run([str(self.site / "bin" / "fas"), *arguments])

    def sdk(self, code: str) -> Any:
        """What `code` left in `result`, run where the client's modules are."""
        return json.loads(self._run(["-c", f"import json\n{code}\nprint(json.dumps(result))"]).out.splitlines()[-1])

    def _run(self, arguments: list[str]) -> Said:
        environ = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.home),
            "FAASPOT_DIR": str(self.home),
            "PYTHONPATH": str(self.site),
            "PYTHONIOENCODING": "utf-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.environ,
        }
        done = subprocess.run(
            [self.python, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.home,
            env=environ,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return Said(done.stdout, done.stderr)
