"""The only place that prints.

Results go to stdout, and with ``--json`` nothing else does. What is said about them (hints, progress, errors) goes to
stderr. Colour and progress only on a terminal, and not under ``NO_COLOR``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

SHORT = 60
"""How much of a long text a table shows."""


def value(result: Any, as_json: bool = False) -> None:
    """A function's result: a text bare, anything else (and all with ``--json``) as JSON."""
    line(result if isinstance(result, str) and not as_json else text_of(result))


def text_of(result: Any) -> str:
    """JSON text on one line."""
    return json.dumps(result, ensure_ascii=False)


def line(text: str) -> None:
    """A line on stdout."""
    click.echo(text)


def piece(text: str) -> None:
    """A piece of a growing text on stdout, at once."""
    click.echo(text, nl=False)


def note(text: str) -> None:
    """A line for people, on stderr."""
    click.echo(text, err=True)


def pairs(record: Mapping[str, Any], last: Sequence[str] = ()) -> None:
    """``key | value`` lines; texts of several lines, and the keys of `last`, come at the end, below their key."""
    long = [key for key in record if key not in last and _lines(record[key]) > 1]
    tail = [*long, *(key for key in last if key in record)]
    width = max((len(key) for key in record), default=0)
    for key in (key for key in record if key not in tail):
        line(f"{key:<{width}} | {printable(_plain(record[key])).rstrip()}".rstrip())
    for key in tail:
        text = printable(_plain(record[key])).rstrip()
        line(f"{key:<{width}} | {text}" if _lines(text) < 2 else f"{key:<{width}} |\n{text}")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on stdout: a line of headings, then a line for each row, aligned with spaces."""
    cells = [[column.upper() for column in columns]]
    cells += [[_cell(each) for each in row] for row in rows]
    widths = [max(len(row[number]) for row in cells) for number in range(len(columns))]
    for number, row in enumerate(cells):
        text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        line(click.style(text, bold=True) if number == 0 and colourful(sys.stdout) else text)


def shortened(result: Any) -> str:
    """A value on one line of at most `SHORT` characters, for a table."""
    text = " ".join(_plain(result).split())
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


def printable(text: str) -> str:
    """The text with its control characters shown and not obeyed by a terminal; lines and tabs stay."""
    return "".join(each if each in "\n\t" or each.isprintable() else _escaped(each) for each in text)


def lively() -> bool:
    """Whether progress may be shown: stderr is a terminal of a person who has not asked for quiet."""
    return colourful(sys.stderr)


def colourful(stream: Any) -> bool:
    """Whether a stream takes colour."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def failure(message: str, details: Sequence[str] = (), hint: str | None = None) -> None:
    """An error on stderr: what went wrong, its details, and what to do next."""
    word = click.style("Error:", fg="red", bold=True) if colourful(sys.stderr) else "Error:"
    note(f"{word} {printable(message)}")
    for detail in details:
        note(printable(detail))
    if hint:
        note(hint)


def trace(error: BaseException) -> None:
    """Where an error came from, on stderr, for those who asked with ``-vvv``."""
    import traceback

    note("".join(traceback.format_exception(error)).rstrip())


def failure_json(problem: Mapping[str, Any]) -> None:
    """An error on stderr for a program: one line of JSON."""
    note(text_of({key: value for key, value in problem.items() if value not in (None, [], ())}))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii") if character != "\r" else ""


def _plain(result: Any) -> str:
    if result is None:
        return ""
    return result if isinstance(result, str) else text_of(result)


def _cell(result: Any) -> str:
    if isinstance(result, list | tuple):
        result = ", ".join(str(each) for each in result)
    return printable(" ".join(_plain(result).split()))


def _lines(result: Any) -> int:
    return result.rstrip().count("\n") + 1 if isinstance(result, str) else 1
