"""Starting a program of the host for a build: confined, bounded in time, output and disk, and never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faaspot_runner.environments import confine
from faaspot_runner.environments.errors import BuildError

OUTPUT_BYTES = 8 * 1024 * 1024
"""Of each stream so much is kept; the rest is read and dropped."""
_TICK_SECONDS = 0.1
_RESERVE_BYTES = 256 * 1024 * 1024
_RESERVE_SHARE = 0.02
_VIEWS = ("/media", "/mnt", "/srv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a build may go on: until `deadline` (`time.monotonic()`), or until `cancelled()` is true."""

    deadline: float
    cancelled: Callable[[], bool] = field(default=lambda: False)

    def check(self) -> None:
        """Raises BuildError (timeout or cancelled) when it is over."""
        if self.cancelled():
            raise BuildError("The build was cancelled.", reason="cancelled")
        if time.monotonic() >= self.deadline:
            raise BuildError("The build did not end in its time.", reason="timeout")

    @property
    def left(self) -> float:
        """Seconds, at least 0."""
        return max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a program ended. `status`: exit status, negative for a signal."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """Who a program is and what it sees. `uid` None: as who we are, with every path as it is on the host.

    Else `shown` (name -> host path) is what it finds under `view`, wherever that lies on the host.
    """

    uid: int | None
    shown: Mapping[str, Path]

    def seen(self, name: str) -> Path:
        """The path under which the program knows `shown[name]`."""
        return self.shown[name] if self.uid is None else Path(view()) / name

    def plan(self) -> str:
        binds = [] if self.uid is None else [(str(path), name) for name, path in self.shown.items()]
        return json.dumps({"parent": os.getpid(), "uid": self.uid, "view": view(), "binds": binds})


def view() -> str:
    """The directory that is covered for a program of another uid: one that every Linux has and no program needs."""
    return next(directory for directory in _VIEWS if os.path.isdir(directory))


def run(
    command: Sequence[str | Path], *, within: Confinement, environ: Mapping[str, str], disk: Path, patience: Patience
) -> Finished:
    """Run `command` to its end. Raises BuildError if patience or the space on `disk` ends first; it is dead then."""
    launcher = [sys.executable, "-I", "-S", confine.__file__, within.plan()]
    with subprocess.Popen(
        [*launcher, *map(str, command)],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            outputs = _drain(process, disk, patience)
            status = process.wait(timeout=patience.left + _TICK_SECONDS)
        except subprocess.TimeoutExpired:
            raise BuildError("The build did not end in its time.", reason="timeout") from None
        finally:
            # The whole group; the pid is ours until the leader is reaped, so this can hit nobody else.
            if process.returncode is None:
                _kill_group(process.pid)
    texts = [output.decode("utf-8", "replace") for output in outputs]
    return Finished(status=status, stdout=texts[0], stderr=texts[1])


def _drain(process: subprocess.Popen[bytes], disk: Path, patience: Patience) -> list[bytearray]:
    """Read both streams to their ends."""
    assert process.stdout is not None
    assert process.stderr is not None
    outputs = [bytearray(), bytearray()]
    with selectors.DefaultSelector() as selector:
        for stream, output in zip((process.stdout, process.stderr), outputs, strict=True):
            selector.register(stream, selectors.EVENT_READ, output)
        while selector.get_map():
            patience.check()
            check_space(disk)
            for key, _ in selector.select(_TICK_SECONDS):
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                key.data.extend(chunk[: OUTPUT_BYTES - len(key.data)])
    return outputs


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def check_space(disk: Path) -> None:
    """Raises BuildError when the filesystem is nearly full: a package must not take the last block of the spot."""
    status = os.statvfs(disk)
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    if free < min(_RESERVE_BYTES, total * _RESERVE_SHARE):
        raise disk_full()


def disk_full() -> BuildError:
    """What a build says when no space is left."""
    return BuildError(
        "The spot's disk is full: free some space in its data directory, then update the deployment again."
    )
