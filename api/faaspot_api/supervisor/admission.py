"""Lets spots of other hosts in and out: a user of Redis for each, and the spots' private key, sealed to the asker.

The supervisor does this because it alone has the key: the API must not, and hands on what it cannot read.
"""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from faaspot_api.domain.seal import seal
from faaspot_api.keys import private_key_file
from faaspot_api.settings import Settings
from faaspot_api.supervisor import door
from faaspot_api.supervisor.directory import DataDirectory
from faaspot_runner.contract.sentinels import sentinels
from faaspot_runner.contract.spots import SEALED_FOR, Credentials, spot_user

if TYPE_CHECKING:
    from faaspot_api.queue.users import SpotUsers

LEAVE_SECONDS = 60.0
"""How long over the grace a spot that shall go may take; then it is cut off."""
LOOK_SECONDS = 0.5
HERE = ("localhost", "127.0.0.1", "::1")


class NotAdmittedError(Exception):
    """A spot that cannot be let in; the text says what to do."""


class Admissions:
    """Who of other hosts is a spot. `spot_key`: the spots' private key, None: where the data directory has it."""

    def __init__(
        self, settings: Settings, directory: DataDirectory, users: SpotUsers, spot_key: Path | None = None
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._users = users
        self._spot_key = spot_key or private_key_file(directory.path)

    async def admit(self, ip: str, key: str) -> str:
        """The credentials of a new user for the spot at `ip`, sealed to `key`, base64.

        Raises NotAdmittedError if this platform or its Redis takes no spots of other hosts, Unavailable, OSError.
        """
        url, authority = self._address()
        from faaspot_api.queue.users import UsersRefusedError

        try:
            password = await asyncio.to_thread(self._users.admit, ip)
        except UsersRefusedError as error:
            raise NotAdmittedError(str(error)) from None
        credentials = Credentials(
            spot_key=base64.b64encode(self._spot_key.read_bytes()).decode(),
            redis=_with_user(url, spot_user(ip)),
            password=password,
            authority=authority,
            pinned=bool(self._settings.spots_listen),
        )
        sealed = seal(base64.b64decode(key), credentials.text().encode(), SEALED_FOR)
        return base64.b64encode(sealed).decode()

    async def dismiss(self, ip: str) -> None:
        """Wait until the spot has drained and gone, or may not stay longer; then end its user. Raises Unavailable."""
        deadline = time.monotonic() + self._settings.grace + LEAVE_SECONDS
        while await asyncio.to_thread(self._users.stands, ip) and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
        await asyncio.to_thread(self._users.dismiss, ip)

    def _address(self) -> tuple[str, str]:
        """Redis as other hosts reach it, and the certificate of who vouches for it."""
        settings = self._settings
        if settings.spots_listen:
            return door.url(settings.spots_listen), door.certificate_file(self._directory).read_text()
        if settings.own_redis:
            raise NotAdmittedError(
                "This platform takes no spots of other hosts: start it with --spots-listen HOST:PORT."
            )
        url = settings.spots_redis_url or settings.redis
        parts = urlsplit(url)
        if parts.scheme not in ("rediss", "rediss+sentinel"):
            raise NotAdmittedError(
                "The Redis of this platform is not reached over TLS: say --spots-redis-url rediss://HOST:PORT/0."
            )
        if sentinels(url) is None and parts.hostname in HERE:
            raise NotAdmittedError("Other hosts cannot reach the Redis of this platform: say --spots-redis-url.")
        return _without_authority(url)


def _with_user(url: str, user: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}"))


def _without_authority(url: str) -> tuple[str, str]:
    """The URL without its file of certificates, and what is in that file: the other host has no such path."""
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    files = options.pop("ssl_ca_certs", [])
    authority = Path(files[-1]).read_text() if files else ""
    return urlunsplit(parts._replace(query=urlencode(options, doseq=True))), authority
