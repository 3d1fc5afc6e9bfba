"""The spots' key pair, and the key that signs callbacks.

Contexts are sealed to the public half, which the control plane has; the private one opens them. Both are 32 raw bytes
(X25519), in files of their own, since whoever has the one shall not have the other. The callbacks' key is the control
plane's alone.
"""

from __future__ import annotations

from pathlib import Path

from faaspot_api.settings import Settings


class KeyMissingError(Exception):
    """A key is not there; the text says what makes it."""


def public_key(settings: Settings) -> bytes:
    """The spots' public key. Raises KeyMissingError."""
    return _read(public_key_file(settings.data_dir))


def callback_key(settings: Settings) -> bytes:
    """The key from which each token's signing secret is made. Raises KeyMissingError."""
    return _read(callback_key_file(settings.data_dir))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise KeyMissingError(
            f"{path} is missing: `python -m faaspot_api prepare` makes the keys (`fas up` does so by itself)"
        ) from None


def callback_key_file(data_dir: Path) -> Path:
    return data_dir / "keys" / "callback-key"


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
