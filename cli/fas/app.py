"""The root command. Each group is imported when it is used, so `fas --help` and a small command start quickly."""

from __future__ import annotations

import importlib
from typing import Any

import click

from fas.command import forgiving, json_errors
from fas.hints import ALIASES

COMMANDS = {
    "deployments": "Named function packages: create, run, update, roll back. Also called functions.",
    "executions": "The record of every run and build: read, wait, cancel, run again, logs.",
    "spots": "Worker hosts: list, add, join, drain, remove. Also called nodes.",
    "runtimes": "Where code runs on a spot: define, bring up and down.",
    "tokens": "Who may do what: create, list, revoke.",
    "profiles": "Which platform these commands talk to, and as whom.",
    "up": "Start a whole platform on this machine, in the foreground.",
    "doctor": "Say what this machine offers for isolation, and what to do about the rest.",
    "restart": "Replace the processes of a platform that `fas up` runs here, while it serves.",
    "backup": "Write all that cannot be made again to one new FILE.",
    "restore": "Make a data directory from a backup.",
    "completion": "Print the shell completion script.",
}
"""Name -> one line of help. The command lies in `fas.commands.NAME` under that name."""

CONTEXT = {
    "help_option_names": ["-h", "--help"],
    # --include_completed and --include-completed are one option: the published clients mix both.
    "token_normalize_func": lambda token: token.replace("_", "-"),
}


class Root(click.Group):
    """The commands of `COMMANDS`, each imported at its first use."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        with json_errors(context, args):
            return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> Any:
        with json_errors(context, context.args):
            return super().invoke(context)

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        known = ALIASES.get(name, name)
        if known not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"fas.commands.{known}"), known)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Root, context_settings=CONTEXT)
@click.version_option(None, "--version", package_name="faaspot", message="fas %(version)s")
def fas() -> None:
    """Run Python functions, isolated and recorded.

    Start a platform with `fas up`, or say where one is with `fas profiles create`. Then:

    \b
      fas deployments create hello --file hello.py --wait
      fas deployments run hello -p name=you --wait

    Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 platform not reached, 4 still going.
    """


def main(arguments: list[str] | None = None, **options: Any) -> None:
    """The entry point of the `fas` script."""
    forgiving()
    fas.main(args=arguments, prog_name="fas", **options)
