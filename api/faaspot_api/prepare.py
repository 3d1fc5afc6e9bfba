"""What the parts of a platform need before the first of them starts, where no `fas up` makes it.

The data directory of the control plane with the spots' public key, the private key where the spots look for it, the
tables, the admin token. Harmless when repeated, also beside the running parts; a `fas up` on the directory refuses it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from faaspot_api.keys import private_key_file, public_key_file
from faaspot_api.migrate import CANNOT_WORK, migrate
from faaspot_api.settings import Settings
from faaspot_api.supervisor import bucket
from faaspot_api.supervisor.directory import data_directory
from faaspot_api.supervisor.errors import CannotStartError


def prepare(settings: Settings, spot_key: Path | None = None) -> int:
    """The exit status: 0; 1 if the database is away for now, 2 if something must be done first: the last line says it.

    `spot_key`: the file for the spots' private key, which then is nowhere else; None: in the data directory.
    """
    try:
        _keys(settings, spot_key)
    except (CannotStartError, OSError) as error:
        sys.stderr.write(f"faaspot: {error}\n")
        return CANNOT_WORK
    return migrate(settings, settings.token)


def _keys(settings: Settings, spot_key: Path | None) -> None:
    private = spot_key or private_key_file(settings.data_dir)
    public = public_key_file(settings.data_dir)
    if not settings.token:
        raise CannotStartError("say the admin token: FAASPOT_TOKEN_FILE (the name of a file with it) or FAASPOT_TOKEN")
    directory = data_directory(settings)
    directory.inspect()
    with directory.claimed():  # of two at once one would keep its private key and the other its public one
        if public.exists() and not private.exists():
            raise CannotStartError(
                f"the spots' private key {private} is gone, {public} is not: put it back, or delete {public} for a new "
                "pair and give every deployment its context again"
            )
        directory.furnish(own_redis=False, spot_key=private)
        bucket.claim(settings, directory)
