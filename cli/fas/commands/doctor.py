"""`fas doctor`: what this machine offers for isolation. The platform's own program looks; this one passes it on."""

from __future__ import annotations

import subprocess

import click

from fas.command import Command, State, pass_state
from fas.server import program


@click.command(cls=Command)
@pass_state
def doctor(state: State) -> None:
    """Say what this machine offers for isolation, and what to do about the rest.

    Exit code 0 if functions can run isolated here.
    """
    command = [*program("faaspot_runner"), "doctor", *(["--json"] if state.as_json else [])]
    raise click.exceptions.Exit(subprocess.run(command, check=False).returncode)
