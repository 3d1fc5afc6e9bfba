"""`fas backup`: the platform's own program writes the file; this one passes it on."""

from __future__ import annotations

import os
import subprocess

import click

from fas.command import Command, State, pass_state
from fas.server import program


@click.command(cls=Command)
@click.argument("file", metavar="FILE")
@click.option("--data-dir", metavar="DIR", help="Of which platform. [default: ~/.local/share/faaspot]")
@click.option("--database-url", metavar="URL", help="Its PostgreSQL, if that is not its embedded SQLite.")
@click.option("--without-keys", is_flag=True, help="Leave out what opens contexts, and the admin token.")
@pass_state
def backup(state: State, /, file: str, data_dir: str | None, database_url: str | None, without_keys: bool) -> None:
    """Write all that cannot be made again to one new FILE.

    FILE - is stdout. Records, logs, code, contexts, tokens, keys are in it.

    On the machine of the data directory, while the platform runs or not. The file opens every context unless
    --without-keys is said: keep it as you keep secrets.
    """
    run("backup", file, data_dir, database_url, ["--without-keys"] if without_keys else [])


def run(command: str, file: str, data_dir: str | None, database_url: str | None, more: list[str]) -> None:
    """Run the platform's program of this name; ends with its exit status."""
    where = ["--data-dir", data_dir] if data_dir else []
    # By the environment: every user of the machine can read a command line, and the URL may hold a password.
    secret = {"FAASPOT_DATABASE_URL": database_url} if database_url else {}
    words = [*program("faaspot_api"), command, *where, *more, "--", file]
    done = subprocess.run(words, check=False, env={**os.environ, **secret})
    raise click.exceptions.Exit(done.returncode)
