"""The way of other hosts to the private Redis: a TLS listener in front of its unix socket.

The server itself listens nowhere else. The certificate vouches for itself: each spot is given it when it joins, sealed,
and takes no other.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from faaspot_api.supervisor.directory import DataDirectory
from faaspot_api.supervisor.errors import CannotStartError
from faaspot_api.supervisor.tls import Certificate

YEARS = 20
NAME = "faaspot redis"
API = "api"
"""Stands in a URL for the host of the API, where Redis listens on every address."""
ANYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 (compared, not bound)


def place(spots_listen: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`. Raises CannotStartError."""
    host, colon, port = spots_listen.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise CannotStartError(f"--spots-listen {spots_listen}: say HOST:PORT, such as 0.0.0.0:6380")
    return host.strip("[]"), int(port)


def url(spots_listen: str) -> str:
    """The URL of Redis behind it, as other hosts say it."""
    host, port = place(spots_listen)
    shown = API if host in ANYWHERE else f"[{host}]" if ":" in host else host
    return f"rediss://{shown}:{port}/0"


def certificate_file(directory: DataDirectory) -> Path:
    """The certificate, which anybody may read."""
    return directory.path / "keys" / "redis.pem"


def certificate(directory: DataDirectory) -> Certificate:
    """The certificate and its key, made at the first call and kept."""
    pair = Certificate(certfile=certificate_file(directory), keyfile=directory.path / "keys" / "redis.key")
    if not pair.certfile.exists():
        text, key = _made()
        directory.write("keys/redis.key", key, 0o600)
        directory.write("keys/redis.pem", text, 0o644)
    return pair


def _made() -> tuple[bytes, bytes]:
    """A new certificate that vouches for itself, and its key, both PEM."""
    # Imported here: only the first start with a door needs them, and they take a tenth of a second.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A day earlier: the clock of another host may be behind.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM), secret
