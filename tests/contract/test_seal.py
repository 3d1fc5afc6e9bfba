"""The two halves of the seal: the API closes what only a spot opens."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from faaspot_api.domain.seal import seal
from faaspot_runner.seal import open_sealed

PRIVATE = X25519PrivateKey.generate()
KEY, PUBLIC = PRIVATE.private_bytes_raw(), PRIVATE.public_key().public_bytes_raw()
PLAIN = b'{"password":"hunter2"}'


@given(st.binary(max_size=2000), st.text(max_size=40))
def test_a_spot_opens_what_the_api_sealed(plain: bytes, version: str) -> None:
    version = version.encode("utf-8", "replace").decode()
    assert open_sealed(KEY, seal(PUBLIC, plain, version), version) == plain


def test_nothing_of_the_plain_text_shows_and_no_two_seals_are_equal() -> None:
    first, second = seal(PUBLIC, PLAIN, "v1"), seal(PUBLIC, PLAIN, "v1")
    assert b"hunter2" not in first
    assert b"password" not in first
    assert first != second


def test_it_is_bound_to_the_version_that_brought_it() -> None:
    with pytest.raises(ValueError, match="not for this spot and version"):
        open_sealed(KEY, seal(PUBLIC, PLAIN, "v1"), "v2")


def test_another_key_does_not_open_it() -> None:
    other = X25519PrivateKey.generate().private_bytes_raw()
    with pytest.raises(ValueError, match="not for this spot and version"):
        open_sealed(other, seal(PUBLIC, PLAIN, "v1"), "v1")


@given(st.integers(min_value=0), st.integers(1, 255))
def test_a_changed_byte_anywhere_is_noticed(place: int, change: int) -> None:
    sealed = bytearray(seal(PUBLIC, PLAIN, "v1"))
    sealed[place % len(sealed)] ^= change
    with pytest.raises(ValueError, match="sealed context"):
        open_sealed(KEY, bytes(sealed), "v1")


@given(st.binary(max_size=80))
def test_other_bytes_are_refused_with_a_clear_error(sealed: bytes) -> None:
    with pytest.raises(ValueError, match="sealed context"):
        open_sealed(KEY, sealed, "v1")
