"""The user's module: import it, call its `main`, tell of what it raised as its author would want to read it."""

from __future__ import annotations

import contextlib
import sys

TYPE_CHECKING = False  # `typing` itself takes longer to import than all of ours
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    Main = Callable[[Any, Any], Any]

MESSAGE_CHARS = 4_000
TRACEBACK_CHARS = 12_000
_COROUTINE = 0x80
_code_file = ""


class LoadError(Exception):
    """The module does not give a `main`; `error` is what the caller may read."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.error = error


def load_packages(directory: str, names: list[str]) -> None:
    """Import these modules as the user's module, which will be in that directory, begins with. Raises LoadError."""
    global _code_file
    _code_file = directory + "/main.py"
    sys.argv = [_code_file]
    try:
        for name in names:
            __import__(name)
    except BaseException as error:  # noqa: BLE001 (the import may raise anything, sys.exit included)
        raise LoadError(describe(error, "the import")) from None
    if "main" in sys.modules:
        # Where the code is there first it has that name; here its import would find the package's module instead.
        text = "a package has imported a module of its own that is called main, as the code is"
        raise LoadError({"type": "ImportError", "message": text, "traceback": None})


def load(directory: str) -> Main:
    """Import `main.py` of that directory as the module `main` and return its function `main`. Raises LoadError."""
    global _code_file
    _code_file = directory + "/main.py"
    sys.path.insert(0, directory)
    sys.argv = [_code_file]
    try:
        import main as module  # type: ignore[import-not-found]
    except BaseException as error:  # noqa: BLE001 (the import may raise anything, sys.exit included)
        raise LoadError(describe(error, "the import")) from None
    main: Optional[Main] = getattr(module, "main", None)
    if not callable(main):
        raise LoadError(
            {"type": "TypeError", "message": "the code has no function main(args, context)", "traceback": None}
        )
    if getattr(getattr(main, "__code__", None), "co_flags", 0) & _COROUTINE:
        import asyncio  # noqa: F401 (so that no run has to)
    return main


def run(main: Main, args: Any, context: Any) -> Any:
    """What `main` returns, awaited if need be. Raises whatever it raises."""
    value = main(args, context)
    if hasattr(value, "__await__"):
        import asyncio

        return asyncio.run(_awaited(value))
    return value


async def _awaited(value: Any) -> Any:
    return await value


def describe(error: BaseException, what: str = "main") -> dict[str, Any]:
    """Type, message and traceback from the first line of the user's file on; all bounded."""
    message = "%s called sys.exit(%r)" % (what, error.code) if isinstance(error, SystemExit) else _text(error)
    kind = type(error)
    plain = kind.__module__ in ("builtins", "main")
    trace = _traceback(error)
    return {
        "type": kind.__qualname__ if plain else "%s.%s" % (kind.__module__, kind.__qualname__),
        "message": clean(message)[:MESSAGE_CHARS],
        "traceback": _middle_cut(clean(trace), TRACEBACK_CHARS),
    }


def _traceback(error: BaseException) -> str:
    """As Python would print it, without our frames."""
    _let_go(error)
    error.__traceback__ = _from_user(error.__traceback__)
    try:
        import traceback

        return "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception as broken:  # noqa: BLE001 (a method of the user's may raise, what was used up still be so)
        return "(no traceback: %s while it was made)" % type(broken).__name__


def _let_go(error: BaseException) -> None:
    """Forget the locals of the frames that failed: what was used up (memory, descriptors) is needed to tell of it."""
    trace = error.__traceback__
    while trace is not None:
        # A frame that still runs, ours or a caught generator's, cannot be cleared.
        with contextlib.suppress(RuntimeError):
            trace.tb_frame.clear()
        trace = trace.tb_next


def clean(text: str) -> str:
    """The text without what UTF-8 cannot carry."""
    return text.encode("utf-8", "backslashreplace").decode()


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 (a __str__ of the user's)
        return "(its text cannot be made)"


def _from_user(trace: Any) -> Any:
    """The traceback without our frames and those of the import machinery before the user's first."""
    start = trace
    while start is not None and start.tb_frame.f_code.co_filename != _code_file:
        start = start.tb_next
    if start is not None or trace is None:
        return start
    # The user's file has no frame (a syntax error, a wrong number of arguments): none of these frames is theirs.
    return None


def _middle_cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = most // 2
    return "%s\n... %d characters cut ...\n%s" % (text[:half], len(text) - most, text[-half:])
