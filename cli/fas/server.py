"""How to start the platform's own programs: by the same interpreter, and only if they are installed."""

from __future__ import annotations

import importlib.util
import sys

import click

NEEDED = ("faaspot_api", "faaspot_runner", "flask", "gunicorn", "rq", "sqlalchemy")
"""The platform's packages and the first of what the extra `server` brings; the plain install lacks the latter."""


def program(module: str) -> list[str]:
    """The command that runs `python -m MODULE`. click.ClickException says what to install if it cannot run."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise click.ClickException(
            f"The platform itself is not installed here (no {missing[0]})."
            " Install it from a clone of its repository: pip install '.[server]', or `make up`"
        )
    # -P: a file of the user's that lies in the current folder, redis.py, say, must not be imported for the real one.
    return [sys.executable, "-P", "-m", module]
