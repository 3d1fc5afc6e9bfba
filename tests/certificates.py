"""Certificates made for a test."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def write_pair(
    directory: Path, password: bytes | None = None, addresses: Sequence[str] = ("127.0.0.1",)
) -> tuple[str, str]:
    """A self-signed certificate for these addresses and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    named = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address)) for address in addresses])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1)).add_extension(named, critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    closed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, closed)
    )
    return str(directory / "cert.pem"), str(directory / "key.pem")
