"""`fas restart`: the platform's own program asks for it; this one passes it on."""

from __future__ import annotations

import subprocess

import click

from fas.command import Command, State, pass_state
from fas.server import program


@click.command(cls=Command)
@click.option("--data-dir", metavar="DIR", help="Of which platform. [default: ~/.local/share/faaspot]")
@pass_state
def restart(state: State, /, data_dir: str | None) -> None:
    """Replace the processes of a platform that `fas up` runs here, while it serves.

    Web processes, the recorder and the spots with their workers, each by a new one before the old one goes: they start
    from the installed release. Only the supervisor and Redis stay. Calls in flight end where they run.
    """
    where = ["--data-dir", data_dir] if data_dir else []
    done = subprocess.run([*program("faaspot_api"), "restart", *where], check=False)
    raise click.exceptions.Exit(done.returncode)
