"""What a function's code imports before it does anything else, read off its first lines.

Such modules can be imported before the code is there: nothing that the code does could have come before. A statement
of any other kind ends the beginning, because it may be what the next import is to find (a variable of the environment,
a patch). The text is a stranger's: it is looked at line by line, never parsed, and what is not plainly an import ends
the beginning, too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

MOST_BYTES = 16 * 1024
MOST_LINE = 500
MOST_MODULES = 50
_NAME = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*"
_ALIAS = r"(?:\s+as\s+[A-Za-z_][A-Za-z0-9_]*)?"
_IMPORT = re.compile(rf"import\s+({_NAME}{_ALIAS}(?:\s*,\s*{_NAME}{_ALIAS})*)\s*(?:#.*)?")
_FROM = re.compile(rf"from\s+({_NAME})\s+import\s+([^#;\\()]+|\([^#;\\()]*\)?)\s*(?:#.*)?")
_MORE = re.compile(r"[A-Za-z0-9_,\s]*(\))?\s*(?:#.*)?")
_LONG = r'"""(?:[^"\\]|"(?!""))*"""', r"'''(?:[^'\\]|'(?!''))*'''"
_SHORT = r'"[^"\\\n]*"', r"'[^'\\\n]*'"
_DOCSTRING = re.compile(rf"(?:{'|'.join((*_LONG, *_SHORT))})\s*\n")
_BLANK = re.compile(r"\s*+(?:#.*)?")


def leading_modules(source: bytes) -> tuple[str, ...]:
    """The modules, in order, that the code imports first of all; those of the standard library left out."""
    try:
        text = source[:MOST_BYTES].decode()
    except UnicodeDecodeError:
        return ()
    found: dict[str, None] = {}
    for name in _imported(iter(_lines(text))):
        if name.partition(".")[0] not in sys.stdlib_module_names:
            found[name] = None
    return tuple(found)[:MOST_MODULES]


def _lines(text: str) -> list[str]:
    """The lines after the text that a module may begin with. Not the last one, which may be cut."""
    lines = text.replace("\r\n", "\n").split("\n")[:-1]
    start = next((number for number, line in enumerate(lines) if not _BLANK.fullmatch(line)), len(lines))
    rest = "\n".join([*lines[start:], ""])
    docstring = _DOCSTRING.match(rest)
    return rest[docstring.end() if docstring else 0 :].split("\n")[:-1]


def _imported(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if len(line) > MOST_LINE:
            return
        if _BLANK.fullmatch(line):
            continue
        if plain := _IMPORT.fullmatch(line):
            yield from (each.split()[0] for each in plain[1].split(","))
        elif (named := _FROM.fullmatch(line)) and _closes(named[2], lines):
            yield named[1]
        else:
            return


def _closes(first: str, lines: Iterator[str]) -> bool:
    """Whether a list of names that may go over several lines comes to its end."""
    if not first.startswith("(") or first.rstrip().endswith(")"):
        return True
    for line in lines:
        more = _MORE.fullmatch(line) if len(line) <= MOST_LINE else None
        if more is None:
            return False
        if more[1]:
            return True
    return False
