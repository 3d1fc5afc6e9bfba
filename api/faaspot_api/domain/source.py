"""Judging a function's code by parsing alone; it is never imported or run here.

Refused is only what is sure to fail: text that no Python reads, no `main`, a `main` that cannot take `args` and
`context`, a generator, a class or a plain value. What parsing cannot tell (imported, assigned, decorated, bound under a
condition) is left to the run. So is code that this interpreter's grammar may be too old for, and code with so many
tokens that its syntax tree would take gigabytes.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Iterator
from threading import Lock

from faaspot_api.errors import FieldError, TooLarge
from faaspot_runner.contract import MAX_CODE_BYTES

MAX_TOKENS = 300_000
"""More are not parsed here: a tree takes up to 0.9 kB a token, and seconds with the interpreter's lock held."""

_COOKIE = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_BLANK = re.compile(r"^[ \t\f]*(?:#.*)?$")
_UTF8 = frozenset({"utf-8", "utf8", "utf-8-sig", "utf8-sig", "u8"})
_ASCII_SUPERSETS = frozenset({"ascii", "us-ascii", "latin-1", "latin1", "iso-8859-1", "iso-8859-15", "cp1252"})
_DYNAMIC = frozenset({"exec", "eval", "globals", "locals", "vars", "setattr", "__dict__", "modules", "__getattr__"})
_NOT_TOKENS = (
    bytes(range(33)) + b"0123456789_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" + bytes(range(127, 256))
)

_parsing = Lock()
"""One tree at a time bounds the memory; `warnings.catch_warnings` is not safe in threads either."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def normal(text: str) -> str:
    """The code as it is kept: without a byte order mark."""
    return text.removeprefix("\ufeff")


def check(text: str, python: str | None = None) -> tuple[FieldError, ...]:
    """What is wrong with the code for sure, () if nothing is. `python`: the version it is for, like "3.12".

    Raises TooLarge past `MAX_CODE_BYTES`.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return (_error("the code holds characters that are no Unicode text; save the file as UTF-8"),)
    if size > MAX_CODE_BYTES:
        message = f"at most {MAX_CODE_BYTES} bytes of code are taken, these are {size}; put data into a package"
        raise TooLarge(message, errors=(_error(message),))
    found = _text_error(text)
    if found is None and _tokens(text) <= MAX_TOKENS:
        found = _parsed_error(text, _minor(python))
    return (found,) if found else ()


def _error(message: str, line: int | None = None) -> FieldError:
    return FieldError(field="code", message=message if line is None else f"line {line}: {message}", line=line)


def _text_error(text: str) -> FieldError | None:
    if not text.strip():
        return _error("the code is empty; it must define main(args, context)")
    if "\0" in text:
        return _error("there is a null byte in the code", text.count("\n", 0, text.index("\0")) + 1)
    return _cookie_error(text)


def _cookie_error(text: str) -> FieldError | None:
    """A declared encoding other than the one that is kept (UTF-8) would make another text of the same bytes."""
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text[:4096], maxsplit=2)[:2], start=1):
        if cookie := _COOKIE.match(line):
            name = cookie[1].lower().replace("_", "-")
            if name in _UTF8 or (text.isascii() and name in _ASCII_SUPERSETS):
                return None
            return _error(f"the encoding {cookie[1]!r} cannot be kept; save the file as UTF-8, drop this line", number)
        if not _BLANK.match(line):
            return None
    return None


def _tokens(text: str) -> int:
    """At least the number of tokens: each is a word between blanks or has a punctuation mark to itself or beside it."""
    return 2 * len(text.encode().translate(None, _NOT_TOKENS)) + len(text.split())


def _minor(python: str | None) -> int | None:
    matched = re.fullmatch(r"3\.(\d+)(?:\.\d+)?", python or "")
    return int(matched[1]) if matched else None


def _parsed_error(text: str, minor: int | None) -> FieldError | None:
    newer = minor is not None and minor > sys.version_info.minor
    try:
        tree = _parse(text, None if newer else minor)
    except SyntaxError as error:
        return None if newer else _error(error.msg, error.lineno or None)
    except (RecursionError, MemoryError):
        return _error("the code is nested too deeply to be read; take long expressions apart")
    except ValueError as error:
        return _error(f"the code cannot be read: {error}")
    return _main_error(tree)


def _parse(text: str, minor: int | None) -> ast.Module:
    with _parsing, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text, feature_version=None if minor is None else (3, minor))


def _main_error(tree: ast.Module) -> FieldError | None:
    last = next((statement for statement in reversed(tree.body) if _binds_main(statement)), None)
    if last is None:
        return None if _is_dynamic(tree) else _error("there is no main; define: def main(args, context):")
    if isinstance(last, ast.ClassDef) and not last.decorator_list:
        return _error("main is a class, it must be a function: def main(args, context):", last.lineno)
    if isinstance(last, Function) and not last.decorator_list:
        return _function_error(last)
    if isinstance(last, ast.Assign | ast.AnnAssign) and isinstance(last.value, _VALUES):
        return _error("main is a value, it must be a function: def main(args, context):", last.lineno)
    return None


_VALUES = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.ListComp, ast.SetComp, ast.DictComp)
"""Expressions that are never callable."""


def _function_error(main: Function) -> FieldError | None:
    positional = len(main.args.posonlyargs) + len(main.args.args)
    required = positional - len(main.args.defaults)
    keywords = [
        arg.arg for arg, default in zip(main.args.kwonlyargs, main.args.kw_defaults, strict=True) if not default
    ]
    if required > 2 or keywords or (positional < 2 and not main.args.vararg):
        return _error("main must take two positional arguments: def main(args, context):", main.lineno)
    if _yields(main):
        return _error("main is a generator (it has yield); let it return its result, a list for instance", main.lineno)
    return None


def _yields(main: Function) -> bool:
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in _own_scope(main.body))


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def _own_scope(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Every node of a body without those of the functions, lambdas and classes inside it."""
    left: list[ast.AST] = [*body]
    while left:
        node = left.pop()
        yield node
        if not isinstance(node, _SCOPES):
            left.extend(ast.iter_child_nodes(node))


def _binds_main(statement: ast.stmt) -> bool:
    """Whether a statement of the module may give `main` a value, under a condition or not."""
    return any(_names_main(node) for node in _own_scope([statement]))


def _names_main(node: ast.AST) -> bool:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name == "main"
        case ast.Name(id=name, ctx=ast.Store()):
            return name == "main"
        case ast.Import(names=names):
            return any((alias.asname or alias.name.partition(".")[0]) == "main" for alias in names)
        case ast.ImportFrom(names=names):
            return any((alias.asname or alias.name) in ("main", "*") for alias in names)
        case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.MatchStar(name=name):
            return name == "main"
        case ast.MatchMapping(rest=name):
            return name == "main"
        case _:
            return False


def _is_dynamic(tree: ast.Module) -> bool:
    """Whether the module holds a word by which code can bind a name that parsing does not see."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.FunctionDef(name=name):
                if name in _DYNAMIC:
                    return True
            case ast.Global(names=names):
                if "main" in names:
                    return True
            case _:
                pass
    return False
