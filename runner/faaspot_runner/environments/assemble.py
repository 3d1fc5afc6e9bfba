"""Putting an environment together from parts that lie ready: hard links, and a manifest that says what it is."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from faaspot_runner.environments.lock import Lock
from faaspot_runner.environments.tree import DIRECTORY_MODE, FILE_MODE
from faaspot_runner.sandbox.spec import Interpreter

MANIFEST = "faaspot-environment.json"


def assemble(new: Path, parts: Sequence[Path], manifest: str) -> None:
    """Fill the empty directory `new` with the files of all parts; directories become read-only, as the files are.

    Where two parts have the same path the earlier one's stays. So no package can replace the `bin/python` or the
    `pyvenv.cfg` of a skeleton that comes first.
    """
    directories = [os.fspath(new)]
    with open(new / MANIFEST, "x") as file:
        file.write(manifest)
        file.flush()
        os.fchmod(file.fileno(), FILE_MODE)
        os.fsync(file.fileno())
    for part in parts:
        _link_tree(os.fspath(part), os.fspath(new), directories)
    for directory in directories:
        os.chmod(directory, DIRECTORY_MODE)


def manifest(lock: Lock, interpreter: Interpreter) -> str:
    """What the environment itself says of what it was made from, for people who look into it."""
    says = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "interpreter": interpreter.identity,
        "packages": [str(package) for package in lock.packages],
        "lock": lock.render(),
    }
    return json.dumps(says, indent=2) + "\n"


def _link_tree(source: str, target: str, directories: list[str]) -> None:
    with os.scandir(source) as entries:
        for entry in entries:
            path = f"{target}/{entry.name}"
            if not entry.is_dir(follow_symlinks=False):
                _link(entry.path, path)
            elif _make_directory(path, directories):
                _link_tree(entry.path, path, directories)


def _make_directory(path: str, directories: list[str]) -> bool:
    """Whether there is a directory at `path` now; False where an earlier part has a file or a link there."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return os.path.isdir(path) and not os.path.islink(path)
    directories.append(path)
    return True


def _link(source: str, path: str) -> None:
    try:
        os.link(source, path, follow_symlinks=False)
    except FileExistsError:
        return
    except OSError as error:
        # Another filesystem, one without hard links, or a file with as many links as it can have.
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        shutil.copy2(source, path, follow_symlinks=False)
