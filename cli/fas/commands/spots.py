"""`fas spots`: the worker hosts, and how this one becomes one."""

from __future__ import annotations

import os

import click

from fas import output, progress
from fas.command import Group, State, pass_state
from fas.server import program

COLUMNS = ("ip", "status", "running", "capacity", "sandboxes", "networks", "runtimes", "last_seen")


@click.group(cls=Group)
def spots() -> None:
    """Worker hosts: list, add, join, drain, remove."""


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
@click.option("-i", "--ip", metavar="IP", help="Which one; each that has no numbers of its own if left out.")
@click.option("--min", "least", type=click.IntRange(min=0), metavar="N", help="Fewest workers of a spot.")
@click.option("--max", "most", type=click.IntRange(min=0), metavar="N", help="Most workers of a spot.")
@pass_state
def update(state: State, /, ip: str | None, least: int | None, most: int | None) -> None:
    """Set the numbers of worker processes for sync runs, and as many for background runs.

    Within them a spot follows its queues: one more while runs wait, one less when it has been idle for half a minute.
    """
    if least is None and most is None:
        raise click.UsageError("Nothing to update: say --min, --max or both.")
    if least is not None and most is not None and least > most:
        raise click.UsageError(f"--min {least} is more than --max {most}.")
    output.value(state.client.spots.update(least, most, ip=ip), state.as_json)


@spots.command()
@click.argument("ip")
@click.option("--end", is_flag=True, help="Have it take work again.")
@pass_state
def drain(state: State, /, ip: str, end: bool) -> None:
    """Have a spot take nothing new; what runs there goes on."""
    found = state.client.spots.drain(ip, draining=not end)
    if state.as_json:
        return output.value(found)
    return output.line(f"{ip} takes work again." if end else f"{ip} drains: it takes nothing new.")


@spots.command()
@click.argument("url")
@click.option("--token", metavar="TOKEN", help="A token of role admin or join; needed the first time.")
@click.option("--ip", metavar="IP", help="Its address, which is its name. [default: from which the URL is reached]")
@click.option("--data-dir", metavar="DIR", help="Where it keeps everything. [default: ~/.local/share/faaspot-spot]")
@click.option("--workers", type=click.IntRange(1, 64), metavar="N", help="Worker processes for sync runs. [default: 2]")
@click.option("--certificate", metavar="FILE", help="Who vouches for the certificate of the URL (PEM).")
def join(
    url: str, token: str | None, ip: str | None, data_dir: str | None, workers: int | None, certificate: str | None
) -> None:
    """Make this host a spot of the platform at URL, in the foreground.

    The platform must have been started for that: `fas up --host HOST --spots-listen HOST:PORT`. Ctrl-C or SIGTERM stops
    it; it waits up to 30 s (FAASPOT_SPOT_GRACE) for what runs.
    """
    sets = f"sync={workers},background={workers},builds=1" if workers else None
    given = {"ip": ip, "data-dir": data_dir, "workers": sets, "api-ca": certificate}
    command = [*program("faaspot_runner"), "join", url]
    command += [part for name, text in given.items() if text for part in (f"--{name}", text)]
    if token:
        # Through a pipe: every user of the machine can read a command line.
        reader, writer = os.pipe()
        os.write(writer, token.encode())
        os.close(writer)
        os.set_inheritable(reader, True)
        command += ["--token-fd", str(reader)]
    os.execv(command[0], command)  # noqa: S606 (a list, no shell)


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
