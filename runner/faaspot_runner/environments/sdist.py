"""Environments with packages that must be built from source: every step that runs their code is in a sandbox.

Two sandboxes, one after the other: the first resolves (which may already run build code) and answers with a lock, the
second installs from exactly that lock and sends the tree back. Each has a relay of the package index and no other
network, no context, nothing of other builds; the host checks what they answer and opens nothing that they could write.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from uv import find_uv_bin

from faaspot_runner.contract import Limits
from faaspot_runner.environments import inside, lock
from faaspot_runner.environments.cache import run_by_environment
from faaspot_runner.environments.errors import BuildError, LockError
from faaspot_runner.environments.index import Index, relayed
from faaspot_runner.environments.installer import Installer, uv_environ
from faaspot_runner.environments.process import Patience
from faaspot_runner.environments.staging import staged
from faaspot_runner.environments.unpack import unpack
from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox.launch import accept_relayed
from faaspot_runner.sandbox.spec import Bind, Interpreter

MEMORY_MB = 3072
DISK_MB = 2048
"""Of the build's /tmp, where everything happens; it counts as memory."""
PIDS = 256
MAX_TREE_BYTES = 2 * 2**30
RELAY_PORT = 3141

_BUILD = "/build"
_UV = "/uv"
_START = f"import sys; sys.path.insert(0, {_BUILD!r}); from inside.workbench import main; sys.exit(main(sys.argv[1]))"
_LOG_CHARACTERS = 8000
_LOOK_SECONDS = 0.1
_HEADERS = Path("/usr/include")
"""The C library's, without which no extension can be compiled."""

Log = Callable[[str], None]


class Ended(Protocol):
    """How a sandboxed command ended, see `sandbox.launch.CommandResult`."""

    @property
    def reason(self) -> str | None: ...
    @property
    def log(self) -> str: ...
    @property
    def problem(self) -> str: ...


RunCommand = Callable[..., Coroutine[Any, Any, Ended]]
"""`sandbox.launch.run_command`, perhaps with its cgroups filled in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxedBuilds:
    """Resolves and installs inside sandboxes. `directory`: where the input of builds under way lies."""

    directory: Path
    installer: Installer
    run_command: RunCommand

    def resolve(
        self, requirements: Sequence[str], interpreter: Interpreter, patience: Patience, log: Log
    ) -> tuple[lock.Package, ...]:
        """As `Job.resolve`, source distributions allowed. Raises BuildError."""
        text = "\n".join(requirements) + "\n"
        with self._built("resolve", text, interpreter, patience, log, limit=lock.MAX_BYTES) as answer:
            try:
                return lock.parse_entries(os.read(answer, lock.MAX_BYTES + 1).decode("ascii"))
            except (LockError, UnicodeDecodeError) as error:
                raise BuildError(f"The resolver's answer cannot be taken: {error}") from error

    def install(
        self, packages: Sequence[lock.Package], interpreter: Interpreter, patience: Patience, log: Log, new: Path
    ) -> None:
        """Install exactly these packages and make the tree anew in `new`, an empty directory. Raises BuildError."""
        text = "".join(package.render() for package in packages)
        with (
            self._built("install", text, interpreter, patience, log, limit=MAX_TREE_BYTES) as answer,
            open(answer, "rb", closefd=False) as stream,
        ):
            unpack(stream, new, rewrite=run_by_environment)

    @contextmanager
    def _built(
        self, action: str, text: str, interpreter: Interpreter, patience: Patience, log: Log, *, limit: int
    ) -> Iterator[int]:
        """A descriptor of what the sandboxed `action` on the requirements `text` answered, at its beginning."""
        with self.installer.job(interpreter, patience) as job:
            indexes = job.indexes()
        with staged(self.directory) as directory:
            _lay_out(directory / "input", text)
            answer = os.open(directory / "answer", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                ended = self._relayed(action, indexes, interpreter, patience, directory / "input", (answer, limit))
                _judge(ended, log)
                os.lseek(answer, 0, os.SEEK_SET)
                yield answer
            finally:
                os.close(answer)

    def _relayed(
        self,
        action: str,
        indexes: Sequence[str],
        interpreter: Interpreter,
        patience: Patience,
        directory: Path,
        answer: tuple[int, int],
    ) -> Ended:
        plan = {
            "action": action,
            "requirements": f"{_BUILD}/requirements.txt",
            "uv": _UV,
            "index": f"http://127.0.0.1:{RELAY_PORT}/simple",
            "python": interpreter.inside,
            "work": "/tmp",  # noqa: S108 (inside the sandbox)
        }
        binds = [Bind(source=directory, target=_BUILD), Bind(source=Path(find_uv_bin()), target=_UV)]
        if _HEADERS.is_dir():
            binds.append(Bind(source=_HEADERS, target=str(_HEADERS)))
        index = Index(indexes, uv_environ(self.installer.environ), patience.deadline)
        try:
            with relayed(index, accept_relayed) as far:
                command = self.run_command(
                    [interpreter.inside, "-I", "-S", "-c", _START, json.dumps(plan)],
                    python=interpreter,
                    limits=Limits(timeout=patience.left, memory=MEMORY_MB, pids=PIDS, tmp=DISK_MB),
                    timeout=patience.left,
                    binds=binds,
                    output=answer[0],
                    output_limit=answer[1],
                    relay=(RELAY_PORT, far),
                )
                return asyncio.run(_watched(command, patience))
        except SandboxError as error:
            raise BuildError(f"No sandbox to build in came up: {error}") from error
        finally:
            index.close()


def _lay_out(directory: Path, text: str) -> None:
    """What the sandbox gets to read: the requirements and our programs."""
    (directory / "inside").mkdir(parents=True)
    (directory / "requirements.txt").write_text(text)
    for program in Path(inside.__file__).parent.glob("*.py"):
        shutil.copyfile(program, directory / "inside" / program.name)
    # The sandbox's uid is another: said, not left to the umask.
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


async def _watched(command: Coroutine[Any, Any, Ended], patience: Patience) -> Ended:
    """The command's end. Cancelled, it is stopped and BuildError raised; its own timeout keeps the deadline."""
    task = asyncio.ensure_future(command)
    while not task.done():
        await asyncio.wait([task], timeout=_LOOK_SECONDS)
        if patience.cancelled() and not task.done():
            task.cancel()
            await asyncio.wait([task])
            patience.check()
    return task.result()


def _judge(ended: Ended, log: Log) -> None:
    """Pass the build's own words on. Raises BuildError unless it ended well."""
    for line in ended.log.splitlines():
        log(line)
    words = ended.log[-_LOG_CHARACTERS:].strip() or ended.problem
    if ended.reason == "timeout":
        raise BuildError(f"Building from source did not end in its time.\n{words}", reason="timeout")
    if ended.reason == "oom":
        raise BuildError(f"Building from source took more than {MEMORY_MB} MB of memory, files in /tmp included.")
    if ended.reason == "limit":
        raise BuildError(f"What was built is larger than {MAX_TREE_BYTES // 2**30} GB.")
    if ended.reason is not None:
        raise BuildError(f"Building from source failed.\n{words}")
