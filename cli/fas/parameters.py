"""What a run gets: ``-p`` texts and ``--args`` JSON become one dict. Pure but for reading the file that is named.

``-p`` values are always texts. All of these are the parameters a and b::

    -p a=1 -p b=2        -p a=1 b=2        -p "a=1, b=2"        -p "a=1,b=2"

A comma parts two parameters only where ``name=`` follows it, so ``-p "greeting=Hello, world"`` is one, and everything
after the first ``=`` belongs to the value (``-p b=x=y``). What these rules cannot say, ``--args`` can.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import click

LARGE_BYTES = 8 * 1024 * 1024
"""A file of more is sent as it stands, and read by nobody before the run."""
_NEXT = re.compile(r",\s*(?=[^\W\d][\w.-]*\s*=)")
"""A comma before the next parameter's name."""


def parsed(texts: Iterable[str]) -> dict[str, str]:
    """The parameters in ``-p`` texts; a name said twice has its last value. click.BadParameter for what is none."""
    found: dict[str, str] = {}
    for text in texts:
        for part in _NEXT.split(text):
            name, equals, value = part.partition("=")
            if not equals or not name.strip():
                raise click.BadParameter(f"{part!r} is not key=value", param_hint="'-p' / '--parameters'")
            found[name.strip()] = value
    return found


def named(words: Iterable[str]) -> tuple[str, list[str]]:
    """The one NAME among the words of a command, and the rest: parameters after the first of a ``-p a=1 b=2``."""
    names: list[str] = []
    more: list[str] = []
    for word in words:
        (more if "=" in word else names).append(word)
    if len(names) > 1:
        raise click.UsageError(
            f"One NAME is wanted, not {' and '.join(map(repr, names))}. Put a value with spaces in quotes: -p 'a=b c'"
        )
    if not names:
        raise click.UsageError("Missing argument 'NAME'.")
    return names[0], more


def typed(text: str | None) -> Any:
    """The JSON value of an ``--args``: JSON itself, ``@FILE``, or ``-`` for stdin; None if there is none."""
    if text is None:
        return None
    if text == "-":
        return _json(sys.stdin.read(), "stdin")
    if text.startswith("@"):
        return _json(_content(text[1:]), text[1:])
    return _json(text, "it")


def one(args: str | None, texts: Iterable[str]) -> dict[str, Any] | Path:
    """The parameters of one run: those of ``--args``, and over them those of ``-p``; or a large file as it stands."""
    if args is not None and args.startswith("@") and not (texts := list(texts)) and _is_large(file := Path(args[1:])):
        return file.expanduser()
    base = typed(args)
    if base is None:
        base = {}
    if isinstance(base, list):
        _refuse("it is a list: run-bulk takes one run for each of its items")
    if not isinstance(base, dict):
        _refuse("it must be a JSON object of parameters")
    return {**base, **parsed(texts)}


def _is_large(file: Path) -> bool:
    """Whether a file is too large to be read, only to be sent. One that cannot be looked at is none."""
    try:
        return file.expanduser().stat().st_size > LARGE_BYTES
    except OSError:
        return False


def many(args: str | None, texts: Iterable[str]) -> list[dict[str, Any]]:
    """The parameters of several runs: one for each item of ``--args``, then one for each ``-p``."""
    base = typed(args)
    if base is None:
        base = []
    if not isinstance(base, list) or not all(isinstance(each, dict) for each in base):
        _refuse("it must be a JSON list of objects, one for each run")
    return [*base, *(parsed([text]) for text in texts)]


def _json(text: str, source: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        _refuse(f"{source} is not JSON: {error}")


def _content(path: str) -> str:
    try:
        return Path(path).expanduser().read_text("utf-8")
    except OSError as error:
        _refuse(f"cannot read {path}: {error.strerror}")
    except UnicodeDecodeError:
        _refuse(f"{path} is not UTF-8 text")


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _refuse(problem: str) -> NoReturn:
    raise click.BadParameter(problem, param_hint="'--args'")
