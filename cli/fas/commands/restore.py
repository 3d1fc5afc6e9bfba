"""`fas restore`: the platform's own program reads the file; this one passes it on."""

from __future__ import annotations

import click

from fas.command import Command, State, pass_state
from fas.commands.backup import run


@click.command(cls=Command)
@click.argument("file", metavar="FILE")
@click.option("--data-dir", metavar="DIR", help="Where to: a new or empty folder. [default: ~/.local/share/faaspot]")
@click.option("--database-url", metavar="URL", help="An empty PostgreSQL to fill, and not the embedded SQLite.")
@click.option("--spot-key", metavar="FILE", help="The spots' private key, if the backup was made without keys.")
@pass_state
def restore(state: State, /, file: str, data_dir: str | None, database_url: str | None, spot_key: str | None) -> None:
    """Make a data directory from a backup.

    FILE is what `fas backup` wrote, - is stdin. Then start it with `fas up --data-dir DIR`.

    A backup of an older release is brought to this one. Runs that had not ended run again.
    """
    run("restore", file, data_dir, database_url, ["--spot-key", spot_key] if spot_key else [])
