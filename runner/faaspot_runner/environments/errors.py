"""Why an environment was not built, as the caller of a build will read it."""

from __future__ import annotations

from typing import Literal

from faaspot_runner.errors import RunnerError

BuildReason = Literal["build_failed", "timeout", "cancelled"]


class BuildError(RunnerError):
    """A build that ended without an environment.

    `reason`: build_failed (the requirements, the index or the disk), timeout (the deadline passed) or cancelled.
    `message`: one or more lines for people: what is wrong, in the resolver's own words where it has some, and what
    to do. Paths of the host are not in it.
    """

    def __init__(
        self, message: str, *, reason: Literal["build_failed", "timeout", "cancelled"] = "build_failed"
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class LockError(ValueError):
    """A text that is not a lock of ours: it is refused whole, nothing of it is installed."""
