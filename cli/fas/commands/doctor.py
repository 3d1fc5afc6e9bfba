"""`fas doctor`: what this machine offers for isolation; with ``--server`` how the platform of the profile is.

The platform's own program looks at the machine; this one passes it on.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from fas import output
from fas.command import FAILED, Command, State, pass_state
from fas.server import program

if TYPE_CHECKING:
    from faaspot.config import Profile
    from faaspot.types import Examination

CLOCK_SECONDS = 5.0
"""Two clocks that differ by more make times in records hard to read."""


@click.command(cls=Command)
@click.option("--server", is_flag=True, help="Look at the running platform of the profile, not at this machine.")
@pass_state
def doctor(state: State, /, server: bool) -> None:
    """Say what this machine offers for isolation, and what to do about the rest.

    With --server: how the parts, the spots and the work of the running platform are. Exit code 0 if nothing is missing.
    """
    if server:
        _server(state)
        return
    command = [*program("faaspot_runner"), "doctor", *(["--json"] if state.as_json else [])]
    raise click.exceptions.Exit(subprocess.run(command, check=False).returncode)


def _server(state: State) -> None:
    began = time.time()
    found = state.client.health.examine()
    checks = [*_way(state, found, (began + time.time()) / 2, time.time() - began), *found.checks]
    if state.as_json:
        output.value({**found, "checks": checks}, as_json=True)
    else:
        output.table(("", "part", "", "found"), _rows(checks))
    if any(check["answer"] == "missing" for check in checks):
        raise click.exceptions.Exit(FAILED)


def _way(state: State, found: Examination, at: float, took: float) -> Iterator[dict[str, Any]]:
    """What only the caller sees: the way to the platform, and the two clocks."""
    from faaspot import config

    target = config.resolve(state.profile, profiles=state.client.profiles)
    text = f"faaspot {found.version} at {target.url} answers in {took * 1000:.0f} ms"
    yield _check("reached", "ok", text)
    yield from _secrecy(target)
    apart = found.time - at
    if abs(apart) > CLOCK_SECONDS:
        ahead = "ahead of" if apart > 0 else "behind"
        yield _check("clock", "weaker", f"the platform's is {abs(apart):.0f} s {ahead} this one", "set both by NTP")


def _secrecy(target: Profile) -> Iterator[dict[str, Any]]:
    from faaspot import config

    parts = urlsplit(target.url)
    if parts.scheme == "http" and not config.is_local(parts.hostname or ""):
        yield _check("secrecy", "weaker", "plain HTTP: who is on the way reads tokens and contexts", "serve TLS")
    elif target.ssl_trust_all:
        yield _check("secrecy", "weaker", "the certificate is not checked", "give the profile --ssl-certificate FILE")


def _check(name: str, answer: str, text: str, what_to_do: str = "") -> dict[str, Any]:
    return {"section": "way", "name": name, "answer": answer, "text": text, "what_to_do": what_to_do}


def _rows(checks: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for check in checks:
        yield check["answer"], check["section"], check["name"], check["text"]
        if check["what_to_do"]:
            yield "", "", "", f"-> {check['what_to_do']}"
