"""``python -m faaspot_api migrate``: the database brought to this release, and an admin to begin with."""

from __future__ import annotations

import sys

from faaspot_api.errors import ApiError
from faaspot_api.services import TokenService, open_store
from faaspot_api.settings import Settings
from faaspot_api.store.engine import BadDatabaseError
from faaspot_api.store.migrate import migrate as bring_up_to_date


def migrate(settings: Settings) -> int:
    """Exit status: 0, or 1 with one line that says what to do.

    The setting `token` becomes the admin's. Without it an admin is made only where there is none, and shown once.
    """
    try:
        bring_up_to_date(settings.database)
        store = open_store(settings)
        try:
            text = TokenService(store).first_token(settings.token)
        finally:
            store.close()
    except (BadDatabaseError, ApiError) as error:
        sys.stderr.write(f"faaspot: {error}\n")
        return 1
    if text is not None and not settings.token:
        sys.stdout.write(f"admin token: {text}\n")
    return 0
