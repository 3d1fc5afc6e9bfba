"""`python -m faaspot_api up`, with stand-ins for gunicorn, recorder and spot; see `tests.fake_children`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from faaspot_api.__main__ import main
from faaspot_api.supervisor.children import Program
from faaspot_api.supervisor.programs import Programs

FAKE = Path(__file__).parents[2] / "fake_children.py"


def with_command(program: Program, *command: str) -> Program:
    needed = (*program.needed, str(FAKE))
    return replace(program, command=(sys.executable, "-P", str(FAKE), *command), needed=needed)


def fake(programs: type[Programs]) -> None:
    """Keep environment, rights and descriptors of each program; change only what is run."""
    web, recorder, spot = programs.web, programs.recorder, programs.spot
    changes = {
        "web": lambda self, listener, token, ready=None: with_command(
            web(self, listener, token, ready), "web", str(listener), str(ready or "")
        ),
        "recorder": lambda self, ready=None: with_command(recorder(self, ready), "recorder", str(ready or "")),
        "spot": lambda self, ip, parent: replace(
            with_command(spot(self, ip, parent), "spot", ip),
            environ={**spot(self, ip, parent).environ, **self.settings.environment()},
        ),
    }
    for name, method in changes.items():
        setattr(programs, name, method)


if __name__ == "__main__":
    fake(Programs)
    sys.exit(main(["up", *sys.argv[1:]]))
