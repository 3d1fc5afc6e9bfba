"""Brings the database up to date and makes sure of the admin token.

Whoever uses the database does this first; where several start at once, one does it and the others wait.
"""

from __future__ import annotations

import sys

from faaspot_api.errors import ApiError
from faaspot_api.services import open_store
from faaspot_api.services.tokens import TokenService
from faaspot_api.settings import Settings
from faaspot_api.store.engine import BadDatabaseError
from faaspot_api.store.migrate import migrate as bring_up_to_date

FAILED = 1
CANNOT_WORK = 2


def migrate(settings: Settings, token: str = "") -> int:
    """The exit status: 0; 1 if the database is away for now, 2 if it cannot be used. The last line says why.

    `token`: the text that the token `admin` shall have, "" leaves it.
    """
    try:
        bring_up_to_date(settings.database)
        if token:
            _keep_token(settings, token)
    except BadDatabaseError as error:
        sys.stderr.write(f"{error}\n")
        return CANNOT_WORK
    except ApiError as error:
        sys.stderr.write(f"{error.message}\n")
        return FAILED
    return 0


def _keep_token(settings: Settings, token: str) -> None:
    store = open_store(settings)
    try:
        TokenService(store).first_token(token)
    finally:
        store.close()
