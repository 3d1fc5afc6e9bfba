"""The door on its own, for a platform in parts: lets spots of other hosts in and out, and passes them on to Redis.

Where `fas up` runs, its supervisor does the first and starts the door for the second. Here one process does both. It
has the spots' private key, a directory for the door's certificate, and no way to the database.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from faaspot_api import door as passage
from faaspot_api import log
from faaspot_api.queue.requests import SpotRequests
from faaspot_api.queue.users import SpotUsers
from faaspot_api.settings import Settings
from faaspot_api.supervisor import door, listener
from faaspot_api.supervisor.admission import Admissions
from faaspot_api.supervisor.directory import data_directory
from faaspot_api.supervisor.errors import CannotStartError
from faaspot_api.supervisor.logs import say
from faaspot_api.supervisor.spots import LocalSpots

CANNOT_WORK = 2
NOT_HERE = "This platform runs in parts: start its spots where the others were, or join one from another host."


def keep_door(settings: Settings, spot_key: Path | None) -> int:
    """Let spots in and pass them on until SIGTERM; the exit status: 0, or 2 with a line that says what is missing.

    `spot_key`: the file of the spots' private key.
    """
    log.configure(settings.log_level, "door")
    try:
        return _keep(settings, spot_key)
    except (CannotStartError, OSError) as error:
        sys.stderr.write(f"faaspot: {error}\n")
        return CANNOT_WORK


def _keep(settings: Settings, spot_key: Path | None) -> int:
    if settings.own_redis:
        raise CannotStartError("say --redis-url: the door alone has no Redis of its own, fas up does")
    if spot_key is None or not spot_key.is_file():
        raise CannotStartError(f"say --spot-key with the file of the spots' private key: {spot_key} is none")
    directory = data_directory(settings)
    with directory.claimed():
        certificate = door.certificate(directory)
        sock = listener.listen(*door.place(settings.spots_listen), "--spots-listen")
        shown = replace(settings, certfile=str(certificate.certfile), keyfile=str(certificate.keyfile))
        requests = SpotRequests.open(settings, say)
        admissions = Admissions(settings, directory, SpotUsers.open(settings), spot_key)
        spots = LocalSpots(directory, 0, requests, _Elsewhere(), admissions)
        try:
            asyncio.run(_serve(shown, sock.detach(), spots))
        finally:
            requests.close()
    return 0


async def _serve(settings: Settings, descriptor: int, spots: LocalSpots) -> None:
    admitting = asyncio.create_task(spots.serve())
    try:
        await passage.pass_on(settings, descriptor)
    finally:
        admitting.cancel()
        await asyncio.wait({admitting})


class _Elsewhere:
    """Starts no spots: see `SpotRunner`."""

    def start_spot(self, ip: str) -> None:
        """Nothing is started; `failure` says so."""

    async def stop_spot(self, ip: str) -> None:
        """Nothing runs here."""

    def failure(self, ip: str) -> str | None:
        """Why it will never come up."""
        return NOT_HERE
