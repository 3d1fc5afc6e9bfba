"""Byte-compiles installed packages: a program for the host's interpreter of an environment, CPython 3.8 and newer.

Standard library only; `source` is handed to that interpreter with `-c`, since it may run as a uid that cannot read
this file. It compiles, it runs nothing of what it compiles. Each byte-code file carries the hash of its source, which
the importer checks, so it does not depend on times and is the same wherever the package is installed.
"""

from __future__ import annotations

import os
import py_compile
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

MOUNTED = "/env"
"""Where a sandbox has the environment: the file name in tracebacks."""
MAX_SOURCE_BYTES = 16 * 1024 * 1024


def source() -> str:
    """The text of this program."""
    return Path(__file__).read_text()


def main(directory: str) -> None:
    """Compile the sources of every prefix in `directory`, in as many processes as there are cores."""
    sources = sorted(_sources(directory), reverse=True)
    share = min(os.cpu_count() or 1, 8, 1 + len(sources) // 20)
    children = []
    for number in range(share):
        child = os.fork()
        if child == 0:
            # Hostile sources may crash the compiler: it takes its share's rest with it, nothing else.
            _compile_all(sources[number::share])
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def _sources(directory: str) -> Iterator[tuple[int, str, str]]:
    """Size, path, and path as a sandbox has it."""
    for prefix in os.listdir(directory):
        for at, _, names in os.walk(os.path.join(directory, prefix)):
            for name in names:
                path = os.path.join(at, name)
                if name.endswith(".py") and not os.path.islink(path):
                    inside = os.path.join(MOUNTED, os.path.relpath(path, os.path.join(directory, prefix)))
                    yield os.path.getsize(path), path, inside


def _compile_all(sources: list[tuple[int, str, str]]) -> None:
    warnings.simplefilter("ignore")
    for size, path, inside in sources:
        if size <= MAX_SOURCE_BYTES:
            try:
                py_compile.compile(
                    path, dfile=inside, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
                )
            except (py_compile.PyCompileError, OSError, ValueError, RecursionError, MemoryError):
                continue


if __name__ == "__main__":
    main(sys.argv[1])
