"""Addresses of the wire that this release does not serve yet: a 400 that says so beats a 404 that looks like a typo."""

from __future__ import annotations

from typing import NoReturn

from flask import Blueprint

from faaspot_api.errors import Invalid
from faaspot_api.http import wire

RUNTIMES = ("/runtimes", "/runtimes/<name>", "/runtimes/<name>/deploy", "/runtimes/<name>/undeploy")
METHODS = ("GET", "PUT", "POST", "PATCH", "DELETE")


def blueprint() -> Blueprint:
    """The addresses of later releases."""
    later = Blueprint("later", __name__)
    for address in (*(prefix + path for prefix in wire.PREFIXES for path in RUNTIMES), "/metrics"):
        later.add_url_rule(
            address,
            "not_yet",
            _not_yet,
            methods=METHODS,
            strict_slashes=False,
            provide_automatic_options=False,
        )
    return later


def _not_yet(**_: str) -> NoReturn:
    raise Invalid("This address is not supported yet.")
