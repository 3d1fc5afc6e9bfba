"""Brings the database up to date and makes sure of the admin token; runs before anything else uses the database."""

from __future__ import annotations

import sys

from faaspot_api import log
from faaspot_api.errors import ApiError
from faaspot_api.services import open_store
from faaspot_api.services.tokens import TokenService
from faaspot_api.settings import Settings
from faaspot_api.store.engine import BadDatabaseError
from faaspot_api.store.migrate import migrate as bring_up_to_date

FAILED = 1
CANNOT_WORK = 2


def migrate(settings: Settings) -> int:
    """The exit status: 0; 1 if the database is away for now, 2 if it cannot be used. The last line says why."""
    log.configure(settings.log_level)
    try:
        bring_up_to_date(settings.database)
        if settings.token:
            _keep_token(settings)
    except BadDatabaseError as error:
        sys.stderr.write(f"{error}\n")
        return CANNOT_WORK
    except ApiError as error:
        sys.stderr.write(f"{error.message}\n")
        return FAILED
    return 0


def _keep_token(settings: Settings) -> None:
    store = open_store(settings)
    try:
        TokenService(store).first_token(settings.token)
    finally:
        store.close()
