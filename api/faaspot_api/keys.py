"""The spots' key pair. Contexts are sealed to the public half, which the control plane has; the private one opens them.

Both are 32 raw bytes (X25519), in files of their own, since whoever has the one shall not have the other.
"""

from __future__ import annotations

from pathlib import Path

from faaspot_api.settings import Settings


class KeyMissingError(Exception):
    """The public key is not there; the text says what makes it."""


def public_key(settings: Settings) -> bytes:
    """The spots' public key. Raises KeyMissingError."""
    path = public_key_file(settings.data_dir)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise KeyMissingError(
            f"{path} is missing: `python -m faaspot_api prepare` makes the spots' keys (`fas up` does so by itself)"
        ) from None


def public_key_file(data_dir: Path) -> Path:
    return data_dir / "keys" / "spot.pub"


def private_key_file(data_dir: Path) -> Path:
    """Where a spot with this data directory looks for it."""
    return data_dir / "keys" / "spot.key"


def new_pair() -> tuple[bytes, bytes]:
    """A private key and its public one."""
    # Imported here: only the first start of a data directory needs it, and it takes a tenth of a second.
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    key = X25519PrivateKey.generate()
    return key.private_bytes_raw(), key.public_key().public_bytes_raw()


def public_of(private: bytes) -> bytes:
    """The public key of a private one."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
