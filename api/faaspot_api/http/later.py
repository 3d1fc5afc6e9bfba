"""Addresses of the wire that this release does not serve yet: a 400 that says so beats a 404 that looks like a typo."""

from __future__ import annotations

from typing import NoReturn

from flask import Blueprint

from faaspot_api.errors import Invalid

ADDRESSES = ("/metrics",)
METHODS = ("GET", "PUT", "POST", "PATCH", "DELETE")


def blueprint() -> Blueprint:
    """The addresses of later releases."""
    later = Blueprint("later", __name__)
    for address in ADDRESSES:
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
