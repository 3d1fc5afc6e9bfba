"""`fas runtimes`: where code runs on a spot. The platform says so where it does not manage them yet."""

from __future__ import annotations

import click

from fas import output
from fas.command import Group, State, pass_state

COLUMNS = ("name", "type", "status", "users", "error")


@click.group(cls=Group)
def runtimes() -> None:
    """Where code runs on a spot."""


@runtimes.command("list")
@pass_state
def list_(state: State) -> None:
    """List the runtimes."""
    found = state.client.runtimes.list()
    if state.as_json:
        return output.value(found)
    return output.table(COLUMNS, ([each.get(key) for key in COLUMNS] for each in found))


@runtimes.command()
@click.argument("name")
@pass_state
def get(state: State, /, name: str) -> None:
    """Show a runtime."""
    found = state.client.runtimes.get(name)
    return output.value(found) if state.as_json else output.pairs(found)
