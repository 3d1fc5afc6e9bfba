"""Everything that can go wrong, as one tree.

::

    FaaspotError
     +-- BadArgument                 what the caller gave cannot be sent (also a ValueError and a TypeError)
     +-- UnreadableFile              a file named by the caller cannot be read (also an OSError)
     |    +-- MissingFile                it is not there (also a FileNotFoundError)
     +-- ConfigError                 the profile file or the arguments do not say where to go
     |    +-- NoProfile
     |    +-- ProfileExists
     |    +-- BadProfile                 a field of a profile cannot be taken (also a BadArgument)
     +-- ConnectionFailed            the platform was not reached, or left in the middle of an answer
     |    +-- AnswerTimedOut
     +-- ApiError                    the platform answered, and the answer is no
          +-- Invalid                400 invalid
          |    +-- NetworkUnavailable    400 network_unavailable
          |    +-- RuntimeUnavailable    400 runtime_unavailable
          +-- Unauthorized           401 unauthorized
          +-- Forbidden              403 forbidden
          +-- NotFound               404 not_found
          +-- Conflict               409
          |    +-- Exists                exists
          |    +-- DeploymentNotReady    deployment_not_ready
          |    +-- DeploymentDisabled    deployment_disabled
          |    +-- AlreadyEnded          already_ended
          |    +-- Busy                  busy
          +-- TooLarge               413 too_large
          +-- IdempotencyMismatch    422 idempotency_mismatch
          +-- Overloaded             429 overloaded
          +-- Unavailable            503
          |    +-- QueueUnavailable      queue_unavailable
          |    +-- Restarting            restarting: who waited is sent away, the run goes on
          |    +-- StorageFull           storage_full
          |    +-- StorageUnavailable    storage_unavailable
          +-- WaitTimeout            504 wait_timeout: the caller's wait ended first, the run goes on
          +-- InternalError          500 internal: a defect of the platform
          +-- BadAnswer              what came back is not the platform's JSON
          +-- RunError               the function (or the build) itself failed; carries its traceback
               +-- Unserialisable, RunTimedOut, OutOfMemory, KilledBySignal, LimitPassed, BuildFailed,
                   WorkerLost, NoSpot, Interrupted, Cancelled

`BY_CODE` is the table from the wire's `error_code` (for a `RunError`: the record's `reason`) to the class. A leaf:
imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


class FaaspotError(Exception):
    """Base of all. `message` is a text for people; `hint`, where there is one, says what to do next."""

    hint: str | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class BadArgument(FaaspotError, ValueError, TypeError):
    """What the caller gave cannot be sent: it is no JSON, not of its type, or does not fit together."""


class ConfigError(FaaspotError):
    """The profile file, the environment or the arguments do not say where to go."""


class NoProfile(ConfigError):
    """No profile is current and nothing else says where the platform is."""

    hint = "Run `fas profiles create NAME --host HOST --token TOKEN`, or start a platform of your own with `fas up`."

    def __init__(self, message: str = "FaaSpot profile was not set. Create a profile using profiles command.") -> None:
        super().__init__(message)


class ProfileExists(ConfigError):
    """A profile of that name is there already."""


class BadProfile(ConfigError, BadArgument):
    """A field of a profile cannot be taken as it was given."""


class UnreadableFile(FaaspotError, OSError):
    """A file that the caller named cannot be read, or is no text; nothing was sent."""

    def __str__(self) -> str:
        return self.message


class MissingFile(UnreadableFile, FileNotFoundError):
    """A file that the caller named is not there; nothing was sent."""

    def __init__(self, path: str) -> None:
        super().__init__(f"Missing file in path: {path}")
        self.path = path


class ConnectionFailed(FaaspotError):
    """The platform was not reached, or it left in the middle of an answer."""

    hint = "Is it running? `fas up` starts one; `fas profiles list` shows where this command looks."

    def __init__(self, detail: str) -> None:
        super().__init__(f"Failed to connect to FaaSpot server. {detail}")


class AnswerTimedOut(ConnectionFailed):
    """No answer within the client's timeout; what was asked for may still happen."""

    hint = "What was asked for may still happen: `fas executions list` shows it. A longer timeout may be set."


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One bad field: where it is, what is wrong with it. `line` counts from 1, for code and requirements."""

    field: str
    message: str
    line: int | None = None


class ApiError(FaaspotError):
    """The platform answered, and the answer is no.

    `status` is the HTTP status; of a failure that was read from an execution's record the one that a waiting call would
    have got. `retry_after` is in seconds.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        error_code: str | None = None,
        errors: tuple[FieldError, ...] = (),
        execution_id: str | None = None,
        retry_after: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.error_code = error_code
        self.errors = errors
        self.execution_id = execution_id
        self.retry_after = retry_after


class Invalid(ApiError):
    """The request cannot be taken as it is; `errors` names every bad field."""


class NetworkUnavailable(Invalid):
    """No online spot offers the network that was asked for."""

    hint = "`fas doctor` says why; leave --network out, or say `--network none`."


class RuntimeUnavailable(Invalid):
    """No online spot offers the runtime or the Python that was asked for, or a runtime did not come up."""

    hint = "`fas runtimes list` shows the runtimes, `fas spots list` what each spot offers."


class Unauthorized(ApiError):
    """No token, or not a valid one."""

    hint = "Set a token with `fas profiles update NAME --token TOKEN`, or in FAASPOT_TOKEN."


class Forbidden(ApiError):
    """The token's role may not do this."""

    hint = "Ask an administrator for a token with the role that this needs."


class NotFound(ApiError):
    """Unknown, or not yours: the platform does not say which."""


class Conflict(ApiError):
    """The thing's present state does not allow it."""


class Exists(Conflict):
    """A thing of that name is there already."""


class DeploymentNotReady(Conflict):
    """It has no version that was ever built; `execution_id` is the build's."""


class DeploymentDisabled(Conflict):
    """An operator has switched it off."""


class AlreadyEnded(Conflict):
    """What has ended cannot be cancelled."""


class Busy(Conflict):
    """It cannot be changed now, or not in this way; the message says why."""


class TooLarge(ApiError):
    """A body or a field passes its limit."""


class IdempotencyMismatch(ApiError):
    """An idempotency key was used again with another body."""


class Overloaded(ApiError):
    """Too much at once; `retry_after` says when to come back."""


class Unavailable(ApiError):
    """Something that the platform needs is away for now."""


class QueueUnavailable(Unavailable):
    """The platform's queue is away; nothing was accepted."""


class Restarting(Unavailable):
    """The web process that held the wait restarts; the run goes on, and `execution_id` finds it."""


class StorageFull(Unavailable):
    """The platform's storage is full; nothing was accepted."""


class StorageUnavailable(Unavailable):
    """The platform's database or blob store is away."""


class WaitTimeout(ApiError):
    """The caller's wait ended first; the run goes on, and `execution_id` finds it."""


class InternalError(ApiError):
    """A defect of the platform."""

    hint = "This is a defect of the platform: its log has the details."


class BadAnswer(ApiError):
    """What came back is not the platform's JSON: a proxy, another service, or a wrong address."""

    hint = "Is the address right? `fas profiles get NAME` shows it."


class RunError(ApiError):
    """The function (or a build) failed.

    `error_code` is the reason word of the record. `type` and `traceback` are the remote exception's, None where there
    was none. The traceback is also a note of this exception, so an uncaught one shows where the function failed.
    """

    def __init__(
        self,
        message: str,
        *,
        type: str | None = None,  # noqa: A002 - the wire's word
        traceback: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(message, **more)
        self.type = type
        self.traceback = traceback
        if traceback:
            self.add_note(f"\nIn the function:\n{traceback.rstrip()}")

    @property
    def reason(self) -> str | None:
        """The machine-readable word for why it ended."""
        return self.error_code


class Unserialisable(RunError):
    """The result is not strict JSON; the message names the type and where."""


class RunTimedOut(RunError):
    """The deployment's own deadline passed."""

    hint = "A deployment's limit is set by `fas deployments update NAME --timeout SECONDS`."


class OutOfMemory(RunError):
    """It took more memory than its limit."""

    hint = "A deployment's limit is set by `fas deployments update NAME --memory MB`."


class KilledBySignal(RunError):
    """It died of a signal."""


class LimitPassed(RunError):
    """Its result, files or descriptors passed a limit."""


class BuildFailed(RunError):
    """Its environment could not be built."""


class WorkerLost(RunError):
    """The spot or worker was lost and no attempt was left."""


class NoSpot(RunError):
    """No spot could take it in time."""

    hint = "`fas spots list` shows the spots; `fas spots add` adds one."


class Interrupted(RunError):
    """An operator stopped the platform before it could end."""


class Cancelled(RunError):
    """Someone cancelled it."""


BY_CODE: Mapping[str, type[ApiError]] = MappingProxyType(
    {
        "invalid": Invalid,
        "network_unavailable": NetworkUnavailable,
        "runtime_unavailable": RuntimeUnavailable,
        "unauthorized": Unauthorized,
        "forbidden": Forbidden,
        "not_found": NotFound,
        "exists": Exists,
        "deployment_not_ready": DeploymentNotReady,
        "deployment_disabled": DeploymentDisabled,
        "already_ended": AlreadyEnded,
        "busy": Busy,
        "too_large": TooLarge,
        "idempotency_mismatch": IdempotencyMismatch,
        "overloaded": Overloaded,
        "queue_unavailable": QueueUnavailable,
        "restarting": Restarting,
        "storage_full": StorageFull,
        "spot_storage_full": TooLarge,
        "storage_unavailable": StorageUnavailable,
        "wait_timeout": WaitTimeout,
        "internal": InternalError,
        # the reasons of an execution
        "error": RunError,
        "unserialisable": Unserialisable,
        "timeout": RunTimedOut,
        "oom": OutOfMemory,
        "signal": KilledBySignal,
        "limit": LimitPassed,
        "build_failed": BuildFailed,
        "worker_lost": WorkerLost,
        "no_spot": NoSpot,
        "interrupted": Interrupted,
        "cancelled": Cancelled,
    }
)

BY_STATUS: Mapping[int, type[ApiError]] = MappingProxyType(
    {
        400: Invalid,
        401: Unauthorized,
        403: Forbidden,
        404: NotFound,
        409: Conflict,
        413: TooLarge,
        422: IdempotencyMismatch,
        429: Overloaded,
        503: Unavailable,
        504: WaitTimeout,
    }
)
"""For an error_code that this version of the library does not know."""
