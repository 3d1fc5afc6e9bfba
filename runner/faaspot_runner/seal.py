"""Opens what the API sealed for the spots.

A context is sealed to the spots' X25519 public key the moment it is stored; only a spot can open it. Format::

    b"FS1" + ephemeral public key (32) + nonce (12) + AES-256-GCM ciphertext
    key = HKDF-SHA256(shared secret, salt none, info b"faaspot context 1" + ephemeral public + spot public)
    associated data = the id of the version that brought it (`SandboxSpec.context_for`), so that a sealed context
    cannot be moved to another deployment

The other half is `faaspot_api.domain.seal`; `tests/contract/test_seal.py` holds them together.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MAGIC = b"FS1"


def open_sealed(private_key: bytes, sealed: bytes, version_id: str) -> bytes:
    """The plain bytes.

    `private_key`: 32 raw bytes. Raises ValueError if `sealed` is not of the format, or not for this key and version.
    """
    if sealed[:3] != MAGIC or len(sealed) < 3 + 32 + 12 + 16:
        raise ValueError("not a sealed context")
    ephemeral, nonce, ciphertext = sealed[3:35], sealed[35:47], sealed[47:]
    private = X25519PrivateKey.from_private_bytes(private_key)
    shared = private.exchange(X25519PublicKey.from_public_bytes(ephemeral))
    info = b"faaspot context 1" + ephemeral + private.public_key().public_bytes_raw()
    key = HKDF(SHA256(), 32, None, info).derive(shared)
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, version_id.encode())
    except InvalidTag as error:
        raise ValueError("the sealed context is not for this spot and version") from error
