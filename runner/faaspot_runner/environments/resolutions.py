"""What requirements were resolved to a short while ago, so that the index is not asked again for the same.

An answer is kept under a digest of all that made it: the requirements, the interpreter, how uv was told to reach the
index. What the index has by now is not among it, so an answer is used for a limited time only. Answers are locks: text
that is parsed as strictly when it is read as when it came.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from faaspot_runner.environments import lock, staging
from faaspot_runner.environments.errors import LockError
from faaspot_runner.environments.process import Patience
from faaspot_runner.sandbox.spec import Interpreter

_FORMAT = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolutions:
    """Answers in `directory`, shared by processes. `seconds`: how long one is used; 0: never."""

    directory: Path
    seconds: float

    def prepare(self) -> None:
        """Make the directory, and remove what is too old. Idempotent."""
        self.directory.mkdir(parents=True, exist_ok=True)
        oldest = time.time() - max(self.seconds, 60.0)
        for entry in os.scandir(self.directory):
            with contextlib.suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < oldest:
                    os.unlink(entry.path)

    @contextlib.contextmanager
    def question(
        self, requirements: Sequence[str], interpreter: Interpreter, environ: Mapping[str, str], patience: Patience
    ) -> Iterator[Question]:
        """Who asks this now; alone, so that the next who asks the same finds the answer. `environ`: that of uv."""
        told = [f"{name}={value}" for name, value in sorted(environ.items())]
        asked = "\n".join(sorted({line.strip() for line in requirements}))
        name = lock.digest("resolution", _FORMAT, interpreter.identity, asked, *told, *_configured(environ))
        if not self.seconds:
            yield Question(path=self.directory / name, seconds=0.0)
            return
        with staging.locked(self.directory / f"{name}.lock", wait=patience.check):
            yield Question(path=self.directory / name, seconds=self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question, whose answer is or will be at `path`."""

    path: Path
    seconds: float

    def answer(self) -> tuple[lock.Lock, float] | None:
        """The answer and its age in seconds, None if there is none that is young enough."""
        try:
            age = time.time() - self.path.stat().st_mtime
            if not 0 <= age < self.seconds:
                return None
            return lock.parse(self.path.read_text()), age
        except (FileNotFoundError, UnicodeDecodeError, LockError):
            return None

    def keep(self, locked: lock.Lock) -> None:
        """This is the answer. Raises OSError."""
        if not self.seconds:
            return
        new = self.path.with_name(f"{staging.PREFIX}{secrets.token_hex(8)}")
        new.write_text(locked.render())
        new.replace(self.path)


def _configured(environ: Mapping[str, str]) -> list[str]:
    """What stands in a file of settings that uv is told to read: where the index is may be said there."""
    path = environ.get("UV_CONFIG_FILE")
    if not path:
        return []
    try:
        return [Path(path).read_text()]
    except (OSError, UnicodeDecodeError):
        return []
