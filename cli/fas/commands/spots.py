"""`fas spots`: the worker hosts."""

from __future__ import annotations

import click

from fas import output, progress
from fas.command import Group, State, pass_state

COLUMNS = ("ip", "status", "running", "sandboxes", "limits", "networks", "runtimes", "created")


@click.group(cls=Group)
def spots() -> None:
    """Worker hosts: list, add, remove."""


@spots.command("list")
@pass_state
def list_(state: State) -> None:
    """List the spots."""
    found = state.client.spots.list()
    if state.as_json:
        return output.value(found)
    output.table(COLUMNS, ([each.get(key) for key in COLUMNS] for each in found))
    for each in found:
        for problem in each.get("problems") or ():
            output.note(f"{each['ip']}: {problem}")
    if not found:
        output.note("There is none, so nothing runs: `fas spots add` starts one.")
    return None


@spots.command()
@click.argument("ip")
@pass_state
def get(state: State, /, ip: str) -> None:
    """Show a spot."""
    found = state.client.spots.get(ip)
    return output.value(found) if state.as_json else output.pairs(found)


@spots.command()
@click.option("-w", "--wait", is_flag=True, help="Wait until it is there, and print its address.")
@click.option("--availability-zone", metavar="ZONE", help="Where it should be, if the platform has a choice.")
@pass_state
def add(state: State, /, wait: bool, availability_zone: str | None) -> None:
    """Add a spot. Prints the id of the execution; with --wait the spot's address."""
    execution = state.client.spots.add(availability_zone=availability_zone)
    progress.told(state.client, execution, wait=wait, text="Adding a spot", as_json=state.as_json)


@spots.command()
@click.option("-i", "--ip", metavar="IP", help="Which one; any if left out.")
@click.option("-w", "--wait", is_flag=True, help="Wait until it is drained and gone.")
@pass_state
def remove(state: State, /, ip: str | None, wait: bool) -> None:
    """Drain and remove a spot."""
    execution = state.client.spots.remove(ip)
    progress.told(state.client, execution, wait=wait, text="Removing a spot", as_json=state.as_json)


@spots.command()
@click.option("--min", "least", type=click.IntRange(min=0), metavar="N", help="Fewest workers of a spot.")
@click.option("--max", "most", type=click.IntRange(min=0), metavar="N", help="Most workers of a spot.")
@pass_state
def update(state: State, /, least: int | None, most: int | None) -> None:
    """Ask for numbers of workers (not applied yet)."""
    if least is None and most is None:
        raise click.UsageError("Nothing to update: say --min, --max or both.")
    if least is not None and most is not None and least > most:
        raise click.UsageError(f"--min {least} is more than --max {most}.")
    output.value(state.client.spots.update(least, most), state.as_json)


@spots.command()
@click.option("-i", "--ip", default="all", show_default=True, metavar="IP", help="Which one.")
@click.option("-w", "--wait", is_flag=True, help="Wait until it is done.")
@pass_state
def refresh_ip(state: State, /, ip: str, wait: bool) -> None:
    """Give a spot, or all, a new address."""
    execution = state.client.spots.refresh_ip(ip)
    progress.told(state.client, execution, wait=wait, text="Refreshing", as_json=state.as_json)


@spots.command()
@click.argument("ip")
@click.option("-w", "--wait", is_flag=True, help="Wait until the new one is there and the old one gone.")
@pass_state
def replace(state: State, /, ip: str, wait: bool) -> None:
    """Replace a spot by a new one. Prints the id of the execution; with --wait the new one's address."""
    execution = state.client.spots.replace(ip)
    progress.told(state.client, execution, wait=wait, text=f"Replacing {ip}", as_json=state.as_json)
