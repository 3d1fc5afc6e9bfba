"""`fas profiles`: which platform the commands talk to, and as whom. Nothing here asks a platform."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fas import output
from fas.command import Group, State, pass_state

if TYPE_CHECKING:
    from faaspot import Profile

F = TypeVar("F", bound=Callable[..., Any])

COLUMNS = ("host", "protocol", "port", "username", "password", "token", "ssl_certificate", "ssl_trust_all")


@click.group(cls=Group)
def profiles() -> None:
    """Which platform these commands talk to, and as whom."""


def profile_options(command: F) -> F:
    """The fields of a profile."""
    for option in reversed(
        (
            click.option("--host", metavar="HOST", help="Host name, address or URL; without one, this machine."),
            click.option("--port", metavar="PORT", help="443 for https; 8000 on this machine."),
            click.option("--protocol", type=click.Choice(["http", "https"]), help="https; http on this machine."),
            click.option("-t", "--token", metavar="TOKEN", help="Who asks; - reads it from stdin."),
            click.option("-u", "--username", metavar="NAME", help="Who asks, where there is no token."),
            click.option("-p", "--password", metavar="PASSWORD", help="With --username; - reads it from stdin."),
            click.option("--certificate", "ssl_certificate", metavar="FILE", help="A certificate to trust."),
            click.option(
                "--trust-all/--no-trust-all", "ssl_trust_all", default=None, help="Check no certificate. Unsafe."
            ),
        )
    ):
        command = option(command)
    return command


def _filled(values: dict[str, Any]) -> dict[str, Any]:
    """The values with each ``-`` of a secret read from stdin, so that it stands in no process list."""
    asked = {name for name in ("token", "password") if values.get(name) == "-"}
    return {**values, **{name: sys.stdin.readline().strip() for name in sorted(asked)}}


@profiles.command("list")
@click.option("-a", "--all", "everything", is_flag=True, help="All fields, secrets as ***.")
@pass_state
def list_(state: State, /, everything: bool) -> None:
    """List the profiles; the current one stands between stars."""
    store = state.client.profiles
    found, current = store.list(), store.current()
    if state.as_json:
        return output.value({name: {**each.masked(), "current": name == current} for name, each in found.items()})
    columns = COLUMNS if everything else ()
    output.table(
        ("name", "url", *columns),
        (
            (f"*{name}*" if name == current else name, each.url, *(each.masked().get(key) for key in columns))
            for name, each in found.items()
        ),
    )
    if not found:
        output.note("There is none yet: `fas profiles create NAME --host HOST --token TOKEN` makes one.")
    return None


@profiles.command()
@click.argument("name", required=False)
@click.option("--name", "spelled", hidden=True, metavar="NAME", help="The same as NAME.")
@profile_options
@click.option("--update-if-exist", is_flag=True, help="Change it if it is there already.")
@click.option("--use", "--set-as-active-profile", "use", is_flag=True, help="Make it the current one.")
@pass_state
def create(
    state: State, /, name: str | None, spelled: str | None, update_if_exist: bool, use: bool, **values: Any
) -> None:
    """Add a profile, NAME or "default". The first one becomes the current one."""
    store = state.client.profiles
    name = name or spelled or "default"
    made = store.create(name, update_if_exist=update_if_exist, use=use, **_filled(values))
    _told(state, name, made, "and current" if store.current() == name else "but not current")


@profiles.command()
@click.argument("name")
@profile_options
@pass_state
def update(state: State, /, name: str, **values: Any) -> None:
    """Change a profile: only what is given."""
    if all(each is None for each in values.values()):
        raise click.UsageError("Nothing to update: give at least one field.")
    _told(state, name, state.client.profiles.update(name, **_filled(values)), "updated")


@profiles.command()
@click.argument("name")
@click.option("--show-secrets", is_flag=True, help="Show the token and the password.")
@pass_state
def get(state: State, /, name: str, show_secrets: bool) -> None:
    """Show a profile."""
    found = state.client.profiles.get(name)
    shown = {"name": name, "url": found.url, **(found.said() if show_secrets else found.masked())}
    return output.value(shown) if state.as_json else output.pairs(shown)


@profiles.command()
@click.argument("name")
@pass_state
def use(state: State, /, name: str) -> None:
    """Make a profile the current one."""
    store = state.client.profiles
    store.use(name)
    _told(state, name, store.get(name), "is current")


@profiles.command()
@pass_state
def current(state: State) -> None:
    """Print the name of the current profile."""
    from faaspot.errors import NoProfile

    name = state.client.profiles.current()
    if name is None:
        raise NoProfile
    return output.value({"name": name}) if state.as_json else output.line(name)


@profiles.command()
@click.argument("name")
@pass_state
def delete(state: State, /, name: str) -> None:
    """Remove a profile; if it is the current one, there is none afterwards."""
    state.client.profiles.delete(name)
    return output.value({"name": name}) if state.as_json else output.note(f"Profile {name} is gone.")


def _told(state: State, name: str, profile: Profile, what: str) -> None:
    if state.as_json:
        return output.value({"name": name, "url": profile.url, **profile.masked()})
    return output.note(f"Profile {name} ({profile.url}) {what}.")
