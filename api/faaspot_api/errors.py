"""Everything that can go wrong in the control plane, as the caller will read it.

::

    ApiError
     +-- Invalid              400 invalid (network_unavailable, runtime_unavailable)
     +-- Unauthorized         401 unauthorized
     +-- Forbidden            403 forbidden
     +-- NotFound             404 not_found
     +-- Conflict             409 exists | deployment_not_ready | deployment_disabled | already_ended | busy | cancelled
     +-- TooLarge             413 too_large
     +-- Unprocessable        422 idempotency_mismatch
     +-- Overloaded           429 overloaded
     +-- RunFailed            500 a sync run whose function failed: the reason is the code
     +-- Unavailable          503 queue_unavailable | no_spot | worker_lost | storage_full
     +-- TimedOut             504 timeout | wait_timeout

Each carries its status, error_code, message for people, and where they apply the bad fields, an execution id, the
seconds after which a retry makes sense and the function's own error. A leaf: imports nothing of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One bad field: where (`requirements[3]`, `timeout`, `body`) and what is wrong. `line` counts from 1."""

    field: str
    message: str
    line: int | None = None


class ApiError(Exception):
    """Base of all. `code` is the wire's error_code."""

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        errors: tuple[FieldError, ...] = (),
        execution_id: str | None = None,
        retry_after: int | None = None,
        error: dict[str, Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.errors = errors
        self.execution_id = execution_id
        self.retry_after = retry_after
        self.error = error
        self.extra = extra or {}


class Invalid(ApiError):
    """The request cannot be taken as it is."""

    status = 400
    default_code = "invalid"

    @classmethod
    def fields(cls, *errors: FieldError) -> Invalid:
        """An `Invalid` whose message names each bad field."""
        return cls("; ".join(f"{error.field}: {error.message}" for error in errors), errors=errors)


class Unauthorized(ApiError):
    """No token, or not a valid one; the text is the same whatever is wrong."""

    status = 401
    default_code = "unauthorized"

    def __init__(self) -> None:
        super().__init__("A valid token is required: Authorization: Token <token>.")


class Forbidden(ApiError):
    """The token's role may not do this."""

    status = 403
    default_code = "forbidden"


class NotFound(ApiError):
    """Unknown, or not yours: the same answer."""

    status = 404
    default_code = "not_found"


class Conflict(ApiError):
    """The thing's present state does not allow it."""

    status = 409
    default_code = "busy"


class TooLarge(ApiError):
    """A body or a field passes its limit."""

    status = 413
    default_code = "too_large"


class Unprocessable(ApiError):
    """An idempotency key used again with another body."""

    status = 422
    default_code = "idempotency_mismatch"


class Overloaded(ApiError):
    """Too much at once."""

    status = 429
    default_code = "overloaded"


class RunFailed(ApiError):
    """A sync run whose function failed; `code` is the execution's reason."""

    status = 500
    default_code = "error"


class Unavailable(ApiError):
    """Something the platform needs is away for now."""

    status = 503
    default_code = "queue_unavailable"


class TimedOut(ApiError):
    """The function's deadline, or the caller's wait, passed."""

    status = 504
    default_code = "wait_timeout"
