"""Requirements text: whatever is sent, what goes on is plain, and reads back as itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from faaspot_api.domain import requirements
from faaspot_api.errors import Invalid

_NAME = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,10}[A-Za-z0-9])?", fullmatch=True)
_VERSION = st.from_regex(r"(==|>=|<|~=|!=)[0-9]\.[0-9]{1,3}", fullmatch=True)
_MARKER = st.from_regex(r"; *(python_version|os_name) *(<|==|in) *['\"][a-z0-9.]{0,5}['\"]", fullmatch=True)
_LINE = st.builds(lambda name, versions, marker: name + ",".join(versions) + marker,
                  _NAME, st.lists(_VERSION, max_size=3), st.one_of(st.just(""), _MARKER))  # fmt: skip
_NOISE = st.text(st.sampled_from("ab1-_.[](){}=<>~!;@#:/\\$'\" \t\n\r\x00,é"), max_size=60)


def _outcome(text: str) -> tuple[str, ...] | Invalid:
    try:
        return requirements.parse(text)
    except Invalid as refused:
        return refused


@given(st.one_of(_NOISE, st.text(max_size=80), st.lists(st.one_of(_LINE, _NOISE)).map("\n".join)))
def test_what_is_taken_is_plain_and_stable_and_the_rest_is_refused(text: str) -> None:
    outcome = _outcome(text)
    if isinstance(outcome, Invalid):
        assert outcome.errors
        assert all(error.line is not None for error in outcome.errors)
        return
    for line in outcome:
        assert Requirement(line).url is None
        assert not set(line) & set("\n\r\\#$/@")
        assert not line.startswith("-")
    assert requirements.parse("\n".join(outcome)) == outcome


@given(st.lists(_LINE, max_size=10))
def test_plain_lines_are_taken_or_named_by_their_number(lines: list[str]) -> None:
    outcome = _outcome("\n".join(lines))
    if isinstance(outcome, Invalid):
        assert {error.line for error in outcome.errors} <= set(range(1, len(lines) + 1))
    else:
        assert len(outcome) <= len(lines)
