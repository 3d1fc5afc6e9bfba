"""Seals a context to the spots' public key; see `faaspot_runner/seal.py` for the format and its other half."""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MAGIC = b"FS1"


def seal(public_key: bytes, plain: bytes, version_id: str) -> bytes:
    """Sealed bytes that only the holder of the private key can open, and only for `version_id`."""
    ephemeral = X25519PrivateKey.generate()
    own = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public_key))
    key = HKDF(SHA256(), 32, None, b"faaspot context 1" + own + public_key).derive(shared)
    nonce = os.urandom(12)
    return MAGIC + own + nonce + AESGCM(key).encrypt(nonce, plain, version_id.encode())
