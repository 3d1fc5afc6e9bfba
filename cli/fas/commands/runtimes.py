"""`fas runtimes`: where code runs on a spot. Changing them is for administrators."""

from __future__ import annotations

import click

from fas import output, progress
from fas.command import Group, State, pass_state

COLUMNS = ("name", "type", "status", "wraps", "users", "error")


@click.group(cls=Group)
def runtimes() -> None:
    """Where code runs on a spot: define, bring up and down."""


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
    """Show a runtime: how it is defined, how it stands, who uses it."""
    found = state.client.runtimes.get(name)
    return output.value(found) if state.as_json else output.pairs(found)


@runtimes.command()
@click.argument("name")
@click.option("--type", "kind", required=True, metavar="TYPE", help="sandbox, docker or process.")
@click.option(
    "-c",
    "--config",
    multiple=True,
    metavar="KEY=VALUE",
    help="What the type takes, see runtimes.md; may be said again.",
)
@click.option("--wraps", metavar="NAME", help="The runtime that it stands on.")
@click.option("--lazy/--no-lazy", default=True, show_default=True, help="Bring it up at its first use.")
@click.option("--external", is_flag=True, help="Its life is not the platform's: only connect to it.")
@pass_state
def create(
    state: State, /, name: str, kind: str, config: tuple[str, ...], wraps: str | None, lazy: bool, external: bool
) -> None:
    """Define a runtime. Nothing is started yet, and the definition never changes."""
    made = state.client.runtimes.create(name, kind, _pairs(config), wraps=wraps, lazy=lazy, external=external)
    if state.as_json:
        return output.value(made)
    after = "comes up at its first use" if lazy else f"comes up with `fas runtimes deploy {name}`"
    return output.note(f"The runtime {name} is defined; it {after}.")


@runtimes.command()
@click.argument("name")
@click.option("-w", "--wait", is_flag=True, help="Wait until it is up on every spot that can offer it.")
@pass_state
def deploy(state: State, /, name: str, wait: bool) -> None:
    """Bring a runtime up on every spot that can; one that failed is tried again. Prints its status."""
    with progress.shown(f"Deploying {name}"):
        found = state.client.runtimes.deploy(name, wait)
    return output.value(found) if state.as_json else output.line(found.status)


@runtimes.command()
@click.argument("name")
@click.option("-w", "--wait", is_flag=True, help="Wait until it is down everywhere.")
@pass_state
def undeploy(state: State, /, name: str, wait: bool) -> None:
    """Take a runtime out of service: what runs may end, nothing new starts. Prints its status."""
    with progress.shown(f"Undeploying {name}"):
        found = state.client.runtimes.undeploy(name, wait)
    return output.value(found) if state.as_json else output.line(found.status)


@runtimes.command()
@click.argument("name")
@pass_state
def delete(state: State, /, name: str) -> None:
    """Take a runtime down and forget it. Refused while a deployment or another runtime uses it."""
    answer = state.client.runtimes.delete(name)
    return output.value(answer) if state.as_json else output.note(f"The runtime {name} is deleted.")


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    """``key=value`` texts as a dict; everything after the first ``=`` is the value."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{text!r} is not key=value", param_hint="'-c' / '--config'")
        found[key] = value
    return found
