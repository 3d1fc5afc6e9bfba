"""`fas tokens`: who may do what. For administrators."""

from __future__ import annotations

import click

from fas import output
from fas.command import Group, State, pass_state

COLUMNS = ("name", "role", "spots", "created")


@click.group(cls=Group)
def tokens() -> None:
    """Who may do what: create, list, revoke."""


@tokens.command("list")
@pass_state
def list_(state: State) -> None:
    """List the tokens, without their texts."""
    found = state.client.tokens.list()
    if state.as_json:
        return output.value(found)
    return output.table(COLUMNS, ([each.get(key) for key in COLUMNS] for each in found))


@tokens.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["admin", "deployer", "invoker", "monitor", "join"]),
    default="deployer",
    show_default=True,
    help="admin: all; deployer: its own deployments; invoker: runs; monitor: metrics; join: new spots.",
)
@click.option("--spot", "spots", multiple=True, metavar="IP", help="Limit a deployer to this spot: not supported yet.")
@pass_state
def create(state: State, /, name: str, role: str, spots: tuple[str, ...]) -> None:
    """Make a token and print its text: the only time that it is shown."""
    made = state.client.tokens.create(name, role, spots)  # type: ignore[arg-type]  # click checked the choice
    if state.as_json:
        return output.value(made)
    output.line(made.token)
    return output.note(f"This is the only time that the token of {name} is shown.")


@tokens.command()
@click.argument("name")
@pass_state
def revoke(state: State, /, name: str) -> None:
    """Make a token invalid at once."""
    answer = state.client.tokens.revoke(name)
    return output.value(answer) if state.as_json else output.note(f"The token of {name} is no longer valid.")


@tokens.command()
@pass_state
def callback_secret(state: State, /) -> None:
    """Print the secret with which your callbacks are signed, of your own token, whatever its role."""
    secret = state.client.tokens.callback_secret()
    return output.value({"secret": secret}) if state.as_json else output.line(secret)
