"""What environments are put together from: one skeleton for each interpreter, one layer for each pinned package.

A layer is a package as installed, byte code included, in read-only files that only the platform's own uid can write.
Environments are hard links to layers, so a package lies on the disk and in the page cache once, however many
environments have it, and putting one together copies nothing. uv's own cache is beneath this: the uid that uv runs as
can write it, so nothing published shares a file with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from faaspot_runner.environments import lock
from faaspot_runner.environments.errors import BuildError
from faaspot_runner.environments.installer import Installer, Job
from faaspot_runner.environments.process import Patience
from faaspot_runner.environments.skeleton import make_skeleton
from faaspot_runner.environments.staging import staged
from faaspot_runner.environments.tree import Budget, take_over
from faaspot_runner.sandbox.spec import Interpreter

FORMAT = "1"
"""Of layers and environments; part of their names, so that a change makes new ones."""
INSTALLERS = 4
"""uv processes at once that split what was fetched into layers."""

_LAYERS = "layers"
_SKELETONS = "skeletons"
_FETCHED = "fetched"
_SHEBANG = re.compile(rb"\A#!(?:/bin/sh\n'''exec' [^\n]*\n' '''[^\n]*|[^\n]*python[^\n]*)\n")


def run_by_environment(path: str, block: bytes) -> bytes:
    """The first block of an installed file; a script of Python starts the interpreter that a sandbox has at /env."""
    return _SHEBANG.sub(b"#!/env/bin/python\n", block) if path.startswith("bin/") else block


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Layers and skeletons under `directory`, shared by processes: what is there is whole and never changes."""

    directory: Path
    installer: Installer

    def prepare(self) -> None:
        """Make the directories. Idempotent."""
        for name in (_LAYERS, _SKELETONS):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self.installer.prepare()

    @property
    def staging(self) -> tuple[Path, ...]:
        """The directories in which something may be half-built."""
        return self.directory / _LAYERS, self.directory / _SKELETONS, self.installer.jobs

    def layers(
        self, packages: Sequence[lock.Package], interpreter: Interpreter, patience: Patience
    ) -> tuple[Path, ...]:
        """The layer of each package, in order; what is not there is fetched, compiled and added. Raises BuildError."""
        paths = {package: self._layer(package, interpreter) for package in packages}
        missing = [package for package in packages if not paths[package].is_dir()]
        if missing:
            with self.installer.job(interpreter, patience) as job:
                names = _install(job, missing)
                job.compile(_LAYERS)
                self._publish(job, [(name, paths[package]) for name, package in zip(names, missing, strict=True)])
        return tuple(paths.values())

    def skeleton(self, interpreter: Interpreter) -> Path:
        """An environment without packages, made once by virtualenv. Raises BuildError."""
        parts = ("skeleton", FORMAT, interpreter.identity, str(interpreter.executable))
        path = self.directory / _SKELETONS / lock.digest(*parts)
        if not path.is_dir():
            with staged(path.parent) as new:
                make_skeleton(interpreter, data=self.directory / "virtualenv", path=new / "made")
                publish(new / "made", path)
        return path

    def _layer(self, package: lock.Package, interpreter: Interpreter) -> Path:
        return self.directory / _LAYERS / lock.digest("layer", FORMAT, interpreter.identity, package.render())

    def _publish(self, job: Job, layers: Sequence[tuple[str, Path]]) -> None:
        """Take the job's results over, in files of our own, and name them once all of it is on the disk."""
        budget = Budget()
        with contextlib.ExitStack() as stack:
            top = stack.enter_context(_opened(os.fspath(job.directory)))
            results = stack.enter_context(_opened(_LAYERS, top))
            ready = []
            for name, path in layers:
                source = stack.enter_context(_opened(name, results))
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(".lock", dir_fd=source)  # uv's own
                new = stack.enter_context(staged(path.parent))
                take_over(source, new, rewrite=run_by_environment, budget=budget)
                ready.append((new, path))
            flush(self.directory)
            for new, path in ready:
                publish(new, path)


def _install(job: Job, packages: Sequence[lock.Package]) -> list[str]:
    """Install each package into a prefix of its own under `layers`; the prefixes' names.

    All are downloaded by one uv, which does that best, and then unpacked again one by one from its cache.
    """
    names = [str(number) for number in range(len(packages))]
    if len(packages) == 1:
        _install_cached_or_not(job, packages, f"{_LAYERS}/0")
    else:
        _install_cached_or_not(job, packages, _FETCHED)
        with ThreadPoolExecutor(INSTALLERS) as pool:
            paths = [f"{_LAYERS}/{name}" for name in names]
            list(pool.map(lambda path, package: job.install([package], path, offline=True), paths, packages))
    return names


def _install_cached_or_not(job: Job, packages: Sequence[lock.Package], name: str) -> None:
    """Without the network first: with everything in the cache this takes a tenth of the time."""
    try:
        job.install(packages, name, offline=True)
    except BuildError as error:
        if error.reason != "build_failed":
            raise
        job.install(packages, name, offline=False)


def publish(new: Path, path: Path) -> None:
    """Give a finished tree its name. If somebody else was quicker theirs stays: the name says that they are equal."""
    try:
        new.rename(path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def flush(path: Path) -> None:
    """Have everything written to this filesystem on the disk, so that no name outlives a power cut without content."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened(name: str, parent: int | None = None) -> Iterator[int]:
    """A directory's descriptor; no link is followed. Raises BuildError if it is none."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        raise BuildError("The installed packages are not where they should be.") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
