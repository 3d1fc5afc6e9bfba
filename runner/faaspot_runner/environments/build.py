"""Building environments, and keeping those that are built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from faaspot_runner.contract import BuildOutcome, BuildRequest
from faaspot_runner.sandbox.spec import Interpreter


class Environments:
    """The environments of one data directory, shared by all its spots and worker processes (thread-safe, flock).

    `root`: where they are published, `cache`: of downloads, package layers and skeletons; on one filesystem.
    `uid`: an ordinary uid for downloads and unpacking when the platform is root; it need not exist in passwd.
    `environ`: the platform's environment, from which uv is given indexes, proxies and certificates, nothing else.
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
    ) -> None:
        raise NotImplementedError

    def build(
        self, request: BuildRequest, log: Callable[[str], None], cancelled: Callable[[], bool], deadline: float
    ) -> BuildOutcome:
        """Resolve the request's requirements and install what the lock says, unless it is already there.

        `log` gets whole lines without a line end, in order, from the calling thread. Raises BuildError.
        """
        raise NotImplementedError

    def ensure(self, lock_text: str, python: str, deadline: float) -> Path:
        """The published directory of this lock, installed anew from the lock alone if this spot does not have it.

        Raises BuildError, also for a text that is not a lock.
        """
        raise NotImplementedError

    def path(self, name: str) -> Path:
        """Where the environment of this name is (or would be). Raises ValueError for what is no environment's name."""
        raise NotImplementedError

    def remove(self, name: str) -> None:
        """Take the environment away, after a build of it that is under way. Sandboxes that have it mounted keep it.

        Nothing happens if there is none. What needs it later installs it again from its lock.
        """
        raise NotImplementedError

    def sweep(self) -> None:
        """Remove what killed builders left half-built; what a living process is building stays."""
        raise NotImplementedError
