"""Everything that can go wrong in the data plane, apart from what a user's function does.

::

    RunnerError
     +-- DeploymentDefinitionError   a runtime's definition cannot be: unknown type, circular wraps, other config
     +-- DeploymentError             a runtime did not come up, is in use, or is gone
     +-- SandboxError                a sandbox could not be started; carries the reason of the wire and the error
          +-- NotOffered             this spot does not offer what the run needs; another one may
          +-- FeatureMissing         the kernel or machine lacks something; names it and says what to do
          +-- EngineError            the container engine refused something
          |    +-- EngineAway        it does not answer at all
          +-- ImageError             there is no image to start a container of

What a function does (raises, dies, runs too long) is not an exception here but an `Outcome`. A leaf: imports nothing
but the contract's words.
"""

from __future__ import annotations

from faaspot_runner.contract import Error, Reason


class RunnerError(Exception):
    """Base of all."""


class DeploymentDefinitionError(RunnerError):
    """A runtime cannot be defined like this; the text says what to change."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class DeploymentError(RunnerError):
    """A runtime did not come up, is in use or is gone; the text says what to do."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class SandboxError(RunnerError):
    """No sandbox came of it.

    `reason`: None where the platform failed (worth another attempt), else the user's import did: "error" (it raised;
    `error` has its traceback), "timeout", "oom", "signal". `log`: what the import had printed.
    """

    def __init__(
        self, message: str, *, reason: Reason | None = None, error: Error | None = None, log: str = ""
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.error = error or Error(type=type(self).__name__, message=message)
        self.log = log


class NotOffered(SandboxError):
    """This spot does not offer what the run needs; another one may."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="no_spot")


class FeatureMissing(SandboxError):
    """This machine lacks something that isolation needs. Another attempt here will fail as well."""

    def __init__(self, feature: str, what_to_do: str) -> None:
        super().__init__(f"{feature} is missing: {what_to_do}")
        self.feature = feature
        self.what_to_do = what_to_do


class EngineError(SandboxError):
    """The container engine refused. `status`: of its HTTP answer, 0 where there was none."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message, reason="no_spot")
        self.status = status


class EngineAway(EngineError):
    """The container engine does not answer; it may again."""


class ImageError(SandboxError):
    """An image is not there, cannot be had, cannot be built, or is not one that functions can run in."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="build_failed")
