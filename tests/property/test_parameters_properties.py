"""Whatever people put into parameters comes out again."""

from __future__ import annotations

from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from faaspot import _calls, _source
from fas import parameters

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]*", fullmatch=True)
PLAIN = st.text(st.characters(blacklist_characters=",=", blacklist_categories=["Cs"]))
ANYTHING = st.text(st.characters(blacklist_categories=["Cs"]))


@given(st.dictionaries(NAMES, PLAIN, min_size=1), st.sampled_from([",", ", ", ",  "]))
def test_parameters_in_one_text_come_apart_again(values: dict[str, str], comma: str) -> None:
    text = comma.join(f"{name}={value}" for name, value in values.items())

    assert parameters.parsed([text]) == values


@given(NAMES, ANYTHING.filter(lambda value: "," not in value))
def test_a_value_without_a_comma_is_never_changed(name: str, value: str) -> None:
    assert parameters.parsed([f"{name}={value}"]) == {name: value}


@given(NAMES, ANYTHING)
def test_a_value_is_only_parted_where_another_name_follows_a_comma(name: str, value: str) -> None:
    found = parameters.parsed([f"{name}={value}"])

    if len(found) == 1 and name in found and "," not in found[name]:
        assert value.endswith(found[name])
    if "=" not in value:
        assert found == {name: value}


@given(ANYTHING)
def test_encoded_text_is_of_the_characters_that_the_platform_decodes_once(text: str) -> None:
    encoded = _source.encoded(text, "code")

    assert unquote(encoded) == text
    assert set(encoded) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~/%-")


@given(ANYTHING.filter(bool))
def test_a_name_never_leaves_its_segment(name: str) -> None:
    segment = _calls.segment(name)

    assert not set(segment) & set("/?#")
    assert segment not in (".", "..")
    assert unquote(segment) == name
