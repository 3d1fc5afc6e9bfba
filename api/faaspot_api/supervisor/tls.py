"""The TLS certificate: checked before anything starts, readable for the web processes whatever uid they have."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from faaspot_api.settings import Settings
from faaspot_api.supervisor.directory import DataDirectory
from faaspot_api.supervisor.errors import CannotStartError


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate chain and its private key, PEM files."""

    certfile: Path
    keyfile: Path


def certificate(settings: Settings) -> Certificate | None:
    """The settings' certificate, None for plain HTTP. Raises CannotStartError if it cannot be used."""
    if not settings.certfile and not settings.keyfile:
        return None
    if not settings.certfile:
        raise CannotStartError("--keyfile needs --certfile, too")
    pair = Certificate(
        certfile=Path(settings.certfile).absolute(), keyfile=Path(settings.keyfile or settings.certfile).absolute()
    )
    for path in (pair.certfile, pair.keyfile):
        if not path.is_file():
            raise CannotStartError(f"the certificate file {path} does not exist")
    try:
        # An encrypted key would ask at the console; the empty password makes it an error instead.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair.certfile, pair.keyfile, password="")
    except (OSError, ValueError) as error:
        raise CannotStartError(
            f"the certificate {pair.certfile} with key {pair.keyfile} cannot be used: {error}"
        ) from None
    return pair


def handed_over(pair: Certificate, directory: DataDirectory, name: str = "") -> Certificate:
    """The same pair where the services can read it: copied for their uid if they have one of their own.

    `name`: what the copies' names begin with.
    """
    if directory.uid is None:
        return pair
    certfile, keyfile = f"run/{name}certificate.pem", f"run/{name}key.pem"
    directory.write(certfile, pair.certfile.read_bytes(), 0o400, directory.uid)
    directory.write(keyfile, pair.keyfile.read_bytes(), 0o400, directory.uid)
    return Certificate(certfile=directory.path / certfile, keyfile=directory.path / keyfile)
