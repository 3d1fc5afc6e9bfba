"""Reading pip requirements text: only what cannot do anything but name a package.

A requirements file can do far more than its readers think: options move the index, `-r` reads files of the host,
URLs and paths bring code that no index has seen, `\\` and `${X}` build lines that nobody wrote. So a line is taken
only if it is plain PEP 508 (name, extras, versions, marker), and what goes on is rendered again from the parse.
"""

from __future__ import annotations

import re

from packaging.requirements import InvalidRequirement, Requirement

from faaspot_api.errors import FieldError, Invalid, TooLarge
from faaspot_runner.contract import MAX_REQUIREMENTS_BYTES

MAX_LINES = 2000
MAX_LINE = 1000
"""Characters of one requirement without its comment."""
MAX_NESTING = 50
"""Parentheses in one line: the parser of markers recurses with each."""

_COMMENT = re.compile(r"(^|[ \t])#.*$")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class _RefusedError(Exception):
    """Why one line is not taken."""


def parse(text: str) -> tuple[str, ...]:
    """The requirements in `text`, canonical, one PEP 508 text each, in order and each once; () if there are none.

    Raises Invalid that lists every bad line, TooLarge past `MAX_REQUIREMENTS_BYTES` or `MAX_LINES`.
    """
    lines = _lines(text)
    found: dict[str, None] = {}
    errors: list[FieldError] = []
    for number, line in enumerate(lines, start=1):
        try:
            requirement = _requirement(line)
        except _RefusedError as refused:
            errors.append(FieldError(field="requirements", message=f"line {number}: {refused}", line=number))
        else:
            if requirement:
                found[requirement] = None
    if errors:
        raise Invalid.fields(*errors)
    return tuple(found)


def _lines(text: str) -> list[str]:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_REQUIREMENTS_BYTES:
        message = f"at most {MAX_REQUIREMENTS_BYTES} bytes of requirements are taken, these are {size}"
        raise TooLarge(message, errors=(FieldError(field="requirements", message=message),))
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    if len(lines) > MAX_LINES + 1 or (len(lines) == MAX_LINES + 1 and lines[-1]):
        message = f"at most {MAX_LINES} lines of requirements are taken, these are {len(lines)}"
        raise TooLarge(message, errors=(FieldError(field="requirements", message=message),))
    return lines


def _requirement(line: str) -> str | None:
    """The canonical text of one line, None for a blank one or a comment."""
    if _CONTROL.search(line):
        raise _RefusedError("has a control character; remove it")
    content = _COMMENT.sub("", line).strip(" \t")
    if not content:
        return None
    _refuse_what_is_no_requirement(content)
    try:
        parsed = Requirement(content)
    except InvalidRequirement as error:
        raise _RefusedError(f"{_quoted(content)} is not a requirement: {_explanation(error)}") from error
    if parsed.url is not None:
        raise _RefusedError(
            f"{_quoted(content)} names a URL; only packages of the index are installed: write {parsed.name}"
        )
    if any(not specifier.version for specifier in parsed.specifier):
        raise _RefusedError(f"{_quoted(content)} has a comparison without a version")
    return _rendered(parsed, content)


def _refuse_what_is_no_requirement(content: str) -> None:
    """Give the well-known kinds of other lines an answer of their own, before the parser says less clearly no."""
    if len(content) > MAX_LINE:
        raise _RefusedError(f"is longer than {MAX_LINE} characters")
    if content.startswith("-"):
        raise _RefusedError(f"{_quoted(content)} is an option of pip; only package names with versions are taken")
    if content.endswith("\\"):
        raise _RefusedError("ends in a backslash; write each requirement on one line")
    if "${" in content:
        raise _RefusedError(f"{_quoted(content)} has a variable; write its value")
    if "://" in content or content.startswith(("/", ".", "~", "file:")) or "\\" in content:
        raise _RefusedError(f"{_quoted(content)} is a URL or a path; only packages of the index are installed, by name")
    if not content.isascii():
        raise _RefusedError(f"{_quoted(content)} has a character outside ASCII")
    if content.count("(") > MAX_NESTING:
        raise _RefusedError("has too many parentheses")


def _rendered(parsed: Requirement, content: str) -> str:
    """The text to go on with. A marker's string may hold a quote that rendering does not escape: it must read back."""
    text = str(parsed)
    try:
        same = str(Requirement(text)) == text and Requirement(text) == parsed
    except InvalidRequirement:
        same = False
    if not same or "#" in text:
        raise _RefusedError(f"{_quoted(content)} has a marker with a quote or `#` in a text; write it without")
    return text


def _explanation(error: InvalidRequirement) -> str:
    """The parser's first line: the rest points into the text with carets."""
    return str(error).splitlines()[0].rstrip(":. ")


def _quoted(content: str) -> str:
    shown = content if len(content) <= 80 else content[:77] + "..."
    return f"`{shown}`"
