"""The pure parts of the wire, over values nobody thought of."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from faaspot_api.domain import encoded
from faaspot_api.errors import Invalid
from faaspot_api.http import reading, strict, wire

text = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=30,
)


@given(text)
def test_decoding_undoes_encoding(value: str) -> None:
    assert encoded.decode(encoded.encode(value)) == value


@given(text)
def test_what_the_old_clients_encode_is_read_as_it_was(value: str) -> None:
    # Python 2's quote escapes `~`, too.
    assert encoded.decode(quote(value).replace("~", "%7E")) == value


@given(text, st.sampled_from(" =()\n\"'#:"), text)
def test_raw_code_is_never_changed(before: str, mark: str, after: str) -> None:
    value = before + mark + after

    assert encoded.decode(value) == value


@given(json_values)
def test_strict_json_reads_what_json_writes(value: Any) -> None:
    assert strict.load(json.dumps(value).encode()) == value
    assert strict.load(strict.dump(value)) == value


@given(st.binary())
def test_any_bytes_are_json_or_refused(data: bytes) -> None:
    try:
        value = strict.load(data)
    except Invalid:
        return
    assert json.loads(data) == value


@given(st.binary())
def test_any_bytes_are_fields_or_refused(data: bytes) -> None:
    try:
        fields = reading.pairs(data)
    except Invalid:
        return
    assert all(isinstance(value, str | list) for value in fields.values())


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=",:"), min_size=1))
def test_a_token_is_found_again(token: str) -> None:
    assert wire.credentials(f"Token {token}") == (None, token)


@given(text.filter(lambda user: ":" not in user), text.filter(bool), st.booleans(), st.sampled_from(["{}", "b'{}'"]))
def test_basic_is_found_again_in_each_of_its_forms(user: str, password: str, urlsafe: bool, form: str) -> None:
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    credentials = encode(f"{user}:{password}".encode()).decode()

    assert wire.credentials(f"Basic {form.format(credentials)}") == (user, password)


@given(text)
def test_any_header_is_credentials_or_none(header: str) -> None:
    found = wire.credentials(header)

    assert found is None or isinstance(found[1], str)
