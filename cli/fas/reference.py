"""The reference of the command, `docs/cli.md`, made from the commands: ``python -m fas.reference > docs/cli.md``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from fas.app import CONTEXT, fas

HEAD = """\
# The `fas` command

Made by `python -m fas.reference` from the commands themselves; a test keeps it current.
Each command says the same with `-h`.

| exit code | means |
|---|---|
| 0 | done |
| 1 | the platform refused it, or the function or the build failed |
| 2 | the command was not typed right, a file that it names cannot be read, or `fas up` cannot start here |
| 3 | the platform was not reached, or no profile says where it is |
| 4 | the wait ended first; the run goes on |
| 130 | interrupted by Ctrl-C |

Results go to stdout, with `--json` as JSON and nothing else; hints, progress and errors go to stderr (errors as one
line of JSON with `--json`). Colour and progress are only for a terminal, and not under `NO_COLOR`. `FAASPOT_URL`,
`FAASPOT_TOKEN` and `FAASPOT_PROFILE` stand in for the current profile; the profiles are in
`$FAASPOT_DIR/$FAASPOT_CONFIG`, by default `~/.faaspot/fasconf.yaml`. `functions` is `deployments`, `nodes` is `spots`,
and `_` is `-` in every name.
"""
WIDTH = 100


def commands(command: click.Command, path: str = "fas") -> Iterator[tuple[str, click.Command]]:
    """Each command with its whole name, in the order in which help shows them."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, "a command that is listed is there"
            yield from commands(found, f"{path} {name}")


def text() -> str:
    """The whole reference, as Markdown."""
    return HEAD + "".join(_section(path, command) for path, command in commands(fas))


def _section(path: str, command: click.Command) -> str:
    depth = "#" * min(len(path.split()) + 1, 4)
    context = click.Context(command, info_name=path, terminal_width=WIDTH, **CONTEXT)  # type: ignore[arg-type]
    return f"\n{depth} `{path}`\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    click.echo(text(), nl=False)
