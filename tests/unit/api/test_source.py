"""Judging code by parsing alone: what is sure to fail is refused with its line, the rest is left to the run."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from faaspot_api.domain import source
from faaspot_api.errors import TooLarge
from faaspot_runner.contract import MAX_CODE_BYTES

OWN = f"3.{sys.version_info.minor}"
NEWER = f"3.{sys.version_info.minor + 1}"

GOOD = [
    "def main(args, context): return 1",
    "def main(args, context, more=1): pass",
    "def main(*parts): pass",
    "def main(args, *more, key=1): pass",
    "def main(a, /, b): pass",
    "async def main(args, context): return 1",
    "@decorated\ndef main(): pass",
    "from other import main",
    "import functions.x as main",
    "from other import *",
    "main = lambda args, context: 1",
    "main: object = make()",
    "main, other = make()",
    "if DEBUG:\n    def main(a): pass\nelse:\n    def main(a, b): pass",
    "try:\n    from fast import main\nexcept ImportError:\n    from slow import main",
    "def main(x): pass\ndef main(args, context): pass",
    "globals()['main'] = print",
    "exec('def main(a, b): pass')",
    "def set():\n    global main\n    main = print\nset()",
    "def main(args, context):\n    def inner():\n        yield 1\n    return list(inner())",
    "def main(args, context):\n    return [x async for x in y] if 0 else (lambda: (yield))",
    "# -*- coding: utf-8 -*-\ndef main(args, context): return '\u00e4'",
    "#!/usr/bin/env python\n# vim: set fileencoding=latin-1 :\ndef main(args, context): pass",
    "\ufeffdef main(args, context): pass",
    "def main(args, context):\r\n    return '\\d'\r\n",
]


@pytest.mark.parametrize("code", GOOD)
def test_what_may_run_is_taken(code: str) -> None:
    assert source.check(source.normal(code), OWN) == ()


@pytest.mark.parametrize(
    ("code", "line", "words"),
    [
        ("", None, "empty"),
        ("  \n\n", None, "empty"),
        ("x = 1", None, "no main"),
        ("def mian(args, context): pass", None, "no main"),
        ("class A:\n    def main(self, a): pass", None, "no main"),
        ("def f():\n    def main(a, b): pass", None, "no main"),
        ("x = 1\ndef main(args): pass", 2, "two positional"),
        ("def main(): pass", 1, "two positional"),
        ("def main(a, b, c): pass", 1, "two positional"),
        ("def main(a, *, b): pass", 1, "two positional"),
        ("def main(a, b, *, c): pass", 1, "two positional"),
        ("def main(**all): pass", 1, "two positional"),
        ("async def main(args): pass", 1, "two positional"),
        ("def main(args, context):\n    yield 1", 1, "generator"),
        ("async def main(args, context):\n    yield 1", 1, "generator"),
        ("def main(args, context):\n    if 0:\n        x = yield from y", 1, "generator"),
        ("\n\nclass main: pass", 3, "class"),
        ("main = 5", 1, "value"),
        ("main: list = [print]", 1, "value"),
        ("def main(args, context): pass\nmain(", 2, "never closed"),
        ("def main(args, context)\n    pass", 1, "expected ':'"),
        ("print 'hello'", 1, "parentheses"),
        ("x = 1\ny = 'a\0b'", 2, "null byte"),
        ("# coding: rot13\nqrs znva(n, o): cnff", 1, "rot13"),
        ("#!x\n# coding: utf-16\ndef main(a, b): pass", 2, "utf-16"),
        ("# coding: latin-1\ndef main(a, b): return '\u00e4'", 1, "latin-1"),
        ("def main(a, b): return '\ud800'", None, "Unicode"),
    ],
)
def test_what_is_sure_to_fail_is_refused_with_its_line(code: str, line: int | None, words: str) -> None:
    (error,) = source.check(code, OWN)
    assert error.field == "code"
    assert error.line == line
    assert words in error.message
    assert line is None or f"line {line}:" in error.message


def test_grammar_that_a_newer_python_may_have_is_left_to_the_run() -> None:
    assert source.check("def main[T](args: T, context): grammar of tomorrow", NEWER) == ()


def test_grammar_that_the_asked_for_python_has_not_yet_is_refused() -> None:
    (error,) = source.check("match 1:\n    case 1: pass\ndef main(a, b): pass", "3.8")
    assert "3.10" in error.message


@pytest.mark.parametrize(
    "code",
    [
        "x = " + "(" * 100_000,
        "x = " + "-" * 100_000 + "1",
        "x = " + "1+" * 30_000 + "1",
        "x = " + "not " * 100_000 + "1",
        "x = a" + ".a" * 50_000,
        "if a: pass\n" + "elif a: pass\n" * 30_000,
        "x = " + "9" * 100_000,
    ],
    ids=["parentheses", "minus", "plus", "not", "attributes", "elif", "digits"],
)
def test_a_recursion_bomb_is_a_clear_error_and_never_a_crash(code: str) -> None:
    (error,) = source.check(f"{code}\ndef main(a, b): pass", OWN)
    assert error.field == "code"
    assert error.message


@pytest.mark.parametrize("code", ["a;" * 2_000_000, "x = [" + "0," * 2_000_000 + "]", "a\n" * 2_000_000])
def test_code_whose_tree_would_take_gigabytes_is_not_parsed(code: str) -> None:
    started = time.monotonic()
    assert source.check(code, OWN) == ()
    assert time.monotonic() - started < 5


def test_long_data_in_code_is_parsed_all_the_same() -> None:
    (error,) = source.check(f"DATA = '{'a' * 3_000_000}'\ndef main(a): pass", OWN)
    assert error.line == 2


def test_code_past_the_limit_is_too_large() -> None:
    with pytest.raises(TooLarge) as caught:
        source.check("#" * (MAX_CODE_BYTES + 1), OWN)
    assert caught.value.errors[0].field == "code"
    assert source.check("a" * MAX_CODE_BYTES, OWN)[0].message.startswith("there is no main")


def test_the_code_is_not_imported(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    source.check(f"open({str(marker)!r}, 'w')\ndef main(a, b): pass", OWN)
    assert not marker.exists()
