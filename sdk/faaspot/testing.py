"""Call a function as the platform would, in a test of your own, with no platform.

::

    from faaspot import testing

    def test_hello():
        assert testing.run("hello.py", {"name": "you"}, {"GREETING": "Hello"}) == "Hello you"

What the platform does to values happens here, too: arguments go through JSON (a tuple arrives as a list), an
`async def main` is awaited, and a result that strict JSON cannot hold is an `Unserialisable` that says what and where.
An exception of the function itself comes out as it is, so that a debugger and a test framework see it.
No sandbox, no limits, no requirements: what is installed here is what the function gets.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from faaspot._source import read
from faaspot.errors import Invalid, Unserialisable

MODULE = "function"
"""The name under which the file is loaded; not `__main__`, on the platform neither."""


def run(
    file: str | os.PathLike[str], args: Mapping[str, Any] | None = None, context: Mapping[str, Any] | None = None
) -> Any:
    """What `main(args, context)` of `file` returns, after the way through JSON that it takes on the platform.

    The file is loaded anew for each call, as each execution has a process of its own. `Invalid` if there is no usable
    `main`, `Unserialisable` for arguments or a result that are not strict JSON.
    """
    main = load(file)
    value = main(_through_json(dict(args or {}), "args"), _through_json(dict(context or {}), "context"))
    if inspect.iscoroutine(value):
        value = asyncio.run(_awaited(value))
    return _through_json(value, "result")


def load(file: str | os.PathLike[str]) -> Callable[[Any, Any], Any]:
    """The `main` of a file that is loaded as a module of its own. `Invalid` if it has none that takes two arguments."""
    path = Path(file)
    module = ModuleType(MODULE)
    module.__file__ = str(path)
    exec(compile(read(path), str(path), "exec"), module.__dict__)  # noqa: S102 - the caller's own file, as asked
    main = getattr(module, "main", None)
    if main is None:
        raise Invalid(f"{path} has no main(args, context)", error_code="invalid")
    problem = _unusable(main)
    if problem:
        raise Invalid(f"{path}: {problem}", error_code="invalid")
    found: Callable[[Any, Any], Any] = main
    return found


def _unusable(main: Any) -> str | None:
    """Why the platform would refuse this `main`, None if it would not."""
    if inspect.isclass(main) or not callable(main):
        return "main must be a function"
    if inspect.isgeneratorfunction(main) or inspect.isasyncgenfunction(main):
        return "main must return a value, a generator cannot be run"
    try:
        inspect.signature(main).bind(None, None)
    except TypeError:
        return "main must take two positional arguments: main(args, context)"
    except ValueError:  # a callable of C has no signature to judge
        return None
    return None


async def _awaited(value: Coroutine[Any, Any, Any]) -> Any:
    return await value


def _through_json(value: Any, where: str) -> Any:
    problem = _not_json(value, where, ())
    if problem:
        raise Unserialisable(problem, error_code="unserialisable")
    return json.loads(json.dumps(value, allow_nan=False))


def _not_json(value: Any, where: str, above: tuple[int, ...]) -> str | None:
    """What in `value` strict JSON cannot hold, and where it is; None for nothing. `above`: ids of what contains it."""
    if value is None or isinstance(value, str | bool | int):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{where} is {value}, which JSON cannot hold"
    if id(value) in above:
        return f"{where} contains itself"
    inner = (*above, id(value))
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                return f"{where} has a key of type {type(key).__name__}, JSON's keys are texts: {key!r}"
            if problem := _not_json(each, f"{where}[{key!r}]", inner):
                return problem
        return None
    if isinstance(value, list | tuple):
        problems = (_not_json(each, f"{where}[{number}]", inner) for number, each in enumerate(value))
        return next((problem for problem in problems if problem), None)
    return f"{where} is of type {type(value).__name__}, which JSON cannot hold"


__all__ = ["load", "run"]
