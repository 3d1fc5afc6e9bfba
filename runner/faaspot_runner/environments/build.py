"""Building environments, and keeping those that are built."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from faaspot_runner.contract import ENVIRONMENT_YOUNG_SECONDS, BuildOutcome, BuildRequest
from faaspot_runner.environments import lock, staging
from faaspot_runner.environments.archive import Packed, unpacked
from faaspot_runner.environments.assemble import assemble, manifest
from faaspot_runner.environments.cache import FORMAT, Cache, flush, publish
from faaspot_runner.environments.errors import BuildError, LockError
from faaspot_runner.environments.installer import Installer, NoWheelError, uv_environ
from faaspot_runner.environments.process import Patience, disk_full
from faaspot_runner.environments.requirements import plain
from faaspot_runner.environments.resolutions import Resolutions
from faaspot_runner.environments.sdist import RunCommand, SandboxedBuilds
from faaspot_runner.sandbox.launch import run_command
from faaspot_runner.sandbox.spec import Interpreter

_NAME = re.compile(r"[0-9a-f]{32}")
_log = logging.getLogger(__name__)

Log = Callable[[str], None]


class Environments:
    """The environments of one data directory, shared by all its spots and worker processes (thread-safe, flock).

    `root`: where they are published, `cache`: of downloads, package layers and skeletons; on one filesystem.
    `uid`: an ordinary uid for downloads and unpacking when the platform is root; it need not exist in passwd.
    `environ`: the platform's environment, from which uv is given indexes, proxies and certificates, nothing else.
    `run_command`: for source distributions; a spot that has cgroups fills them in by `functools.partial`.
    `resolution_age`: for how many seconds the same requirements are not resolved again.
    Deadlines are `time.monotonic()` seconds. Every method may block on the disk, `build` and `ensure` on the network.
    """

    def __init__(
        self,
        root: Path,
        cache: Path,
        interpreters: Mapping[str, Interpreter],
        *,
        environ: Mapping[str, str],
        uid: int | None = None,
        run_command: RunCommand = run_command,
        resolution_age: float = 0.0,
    ) -> None:
        self._root = root
        self._environ = uv_environ(environ)
        self._interpreters = interpreters
        installer = Installer(workshop=cache / ("uv" if uid is None else f"uv-{uid}"), environ=environ, uid=uid)
        self._cache = Cache(directory=cache, installer=installer)
        self._resolutions = Resolutions(directory=cache / "resolutions", seconds=resolution_age)
        self._sources = cache / "sources"
        self._sandboxed = SandboxedBuilds(directory=self._sources, installer=installer, run_command=run_command)
        self._locks = root / ".locks"
        for directory in (self._locks, self._sources):
            directory.mkdir(parents=True, exist_ok=True)
        # Said, not left to the umask: the launcher in a container, an ordinary uid, goes in by an environment's name.
        root.chmod(0o711)
        self._cache.prepare()
        self._resolutions.prepare()

    def build(
        self,
        request: BuildRequest,
        log: Log,
        cancelled: Callable[[], bool],
        deadline: float,
        target: Interpreter | None = None,
    ) -> BuildOutcome:
        """Resolve the request's requirements and install what the lock says, unless it is already there.

        `target`: what it is made for, where a runtime has another system than this machine's.

        `log` gets whole lines without a line end, in order, from the calling thread. Raises BuildError.
        """
        requirements = plain(request.requirements)
        if not requirements:
            return BuildOutcome(lock=None, environment=None)
        interpreter = target or self._interpreter(request.python)
        patience = Patience(deadline=deadline, cancelled=cancelled)
        with _translated():
            locked = self._looked_up(requirements, interpreter, request.sdist, patience, log)
            if not locked.packages:
                log("No requirement applies to this Python: nothing to install")
                return BuildOutcome(lock=None, environment=None)
            name, reused = self._installed(locked, interpreter, patience, log)
        packages = tuple(map(str, locked.packages))
        return BuildOutcome(lock=locked.render(), environment=name, packages=packages, reused=reused)

    def ensure(
        self,
        lock_text: str,
        python: str,
        deadline: float,
        target: Interpreter | None = None,
        packed: Packed | None = None,
    ) -> Path:
        """The published directory of this lock, installed anew from the lock alone if this spot does not have it.

        `packed`: the same built elsewhere; it is unpacked instead if it was made for an interpreter like ours. Raises
        BuildError, also for a text that is not a lock.
        """
        try:
            locked = lock.parse(lock_text)
        except LockError as error:
            raise BuildError(
                f"The version's lock cannot be read: {error}. Update the deployment to build anew."
            ) from error
        with _translated():
            interpreter = target or self._interpreter(python)
            name, _ = self._installed(locked, interpreter, Patience(deadline=deadline), _no_log, packed)
        return self.path(name)

    def path(self, name: str) -> Path:
        """Where the environment of this name is (or would be). Raises ValueError for what is no environment's name."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"not the name of an environment: {name!r}")
        return self._root / name

    def remove(self, name: str) -> None:
        """Take the environment away, after a build of it that is under way. Sandboxes that have it mounted keep it.

        Nothing happens if there is none. What needs it later installs it again from its lock.
        """
        path = self.path(name)
        with staging.locked(self._locks / name, wait=lambda: None):
            staging.take_away(path)
            (self._locks / name).unlink(missing_ok=True)

    def unneeded(self, needed: Collection[str]) -> frozenset[str]:
        """Environments here that are not among `needed` and that no build has made or taken up lately."""
        oldest = time.time() - ENVIRONMENT_YOUNG_SECONDS
        found = [entry for entry in os.scandir(self._root) if _NAME.fullmatch(entry.name) and entry.name not in needed]
        return frozenset(entry.name for entry in found if entry.stat(follow_symlinks=False).st_mtime < oldest)

    def sweep(self) -> None:
        """Remove what killed builders left half-built; what a living process is building stays."""
        for directory in (self._root, self._sources, *self._cache.staging):
            staging.sweep(directory)

    def _interpreter(self, python: str) -> Interpreter:
        try:
            return self._interpreters[python]
        except KeyError:
            offered = ", ".join(self._interpreters) or "none"
            raise BuildError(f"This spot has no CPython {python}. It has: {offered}.") from None

    def _looked_up(
        self, requirements: Sequence[str], interpreter: Interpreter, sdist: bool, patience: Patience, log: Log
    ) -> lock.Lock:
        """What these requirements were resolved to lately, else what they are resolved to now."""
        with self._resolutions.question(requirements, interpreter, self._environ, patience) as question:
            if (known := question.answer()) is not None and (sdist or not known[0].sdist):
                locked, age = known
                log(f"Resolved {_count(locked)} as {age:.0f} s ago: {' '.join(map(str, locked.packages))}")
                return locked
            locked = self._resolve(requirements, interpreter, sdist, patience, log)
            question.keep(locked)
            return locked

    def _resolve(
        self, requirements: Sequence[str], interpreter: Interpreter, sdist: bool, patience: Patience, log: Log
    ) -> lock.Lock:
        """Wheels if there are any that fit together, else source distributions where they are allowed."""
        count = "1 requirement" if len(requirements) == 1 else f"{len(requirements)} requirements"
        log(f"Resolving {count} for CPython {interpreter.full_version}")
        started = time.monotonic()
        try:
            with self._cache.installer.job(interpreter, patience) as job:
                locked = lock.Lock(packages=job.resolve(requirements))
        except NoWheelError as error:
            if interpreter.platform:
                raise BuildError(
                    f"There is no wheel of {' and '.join(error.packages)} for the image, and only wheels are installed "
                    "for images. Choose another version, or an image that has the package."
                ) from error
            if not sdist:
                raise
            log(f"No wheel of {', '.join(error.packages)}: resolving with source distributions, in a sandbox")
            packages = self._sandboxed.resolve(requirements, interpreter, patience, log)
            locked = lock.Lock(packages=packages, sdist=True)
        log(f"Resolved {_count(locked)} in {time.monotonic() - started:.1f} s: {' '.join(map(str, locked.packages))}")
        return locked

    def _installed(
        self,
        locked: lock.Lock,
        interpreter: Interpreter,
        patience: Patience,
        log: Log,
        packed: Packed | None = None,
    ) -> tuple[str, bool]:
        """The name of the lock's environment, and whether it was there before."""
        name = locked.environment_name(f"{FORMAT} {interpreter.identity}")
        path = self._root / name
        with staging.locked(self._locks / name, wait=patience.check):
            if path.is_dir():
                os.utime(path)  # see `unneeded`
                log(f"Environment {name} was already there, reused")
                return name, True
            started = time.monotonic()
            if packed is not None and packed.name == name and self._unpacked(packed, locked, interpreter, path):
                return name, False
            self._install(locked, interpreter, path, patience, log)
            log(f"Installed {_count(locked)} in {time.monotonic() - started:.1f} s as environment {name}")
            return name, False

    def _unpacked(self, packed: Packed, locked: lock.Lock, interpreter: Interpreter, path: Path) -> bool:
        """Whether it could be: what another spot has packed may be anything, and the lock says all that is needed."""
        skeleton = self._cache.skeleton(interpreter)
        with staging.staged(self._root) as packages, staging.staged(self._root) as new:
            try:
                unpacked(packed, packages)
            except BuildError as error:
                _log.warning("the environment %s is installed from its lock: %s", path.name, error.message)
                return False
            flush(self._root)
            assemble(new, (skeleton, packages), manifest(locked, interpreter))
            publish(new, path)
        return True

    def _install(self, locked: lock.Lock, interpreter: Interpreter, path: Path, patience: Patience, log: Log) -> None:
        skeleton = self._cache.skeleton(interpreter)
        with contextlib.ExitStack() as stack:
            if locked.sdist:
                # Built code may be anything: its files are this environment's alone, no other shares them.
                log("Installing in a sandbox")
                built = stack.enter_context(staging.staged(self._root))
                self._sandboxed.install(locked.packages, interpreter, patience, log, built)
                flush(self._root)
                layers: tuple[Path, ...] = (built,)
            else:
                layers = self._cache.layers(locked.packages, interpreter, patience)
            new = stack.enter_context(staging.staged(self._root))
            assemble(new, (skeleton, *layers), manifest(locked, interpreter))
            patience.check()
            publish(new, path)


def _count(locked: lock.Lock) -> str:
    return "1 package" if len(locked.packages) == 1 else f"{len(locked.packages)} packages"


def _no_log(_: str) -> None:
    """For whoever has nobody to tell."""


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """The disk's refusals as build errors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full() from error
        raise BuildError(f"The spot could not keep the environment: {error.strerror or error}.") from error
