"""Which ends of an attempt are followed by another one, how often, and after which pause. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from faaspot_api.domain.model import Settings
from faaspot_api.errors import FieldError
from faaspot_runner.contract import Reason

PLATFORM: frozenset[Reason] = frozenset({"worker_lost", "interrupted"})
"""Failures of the platform, not of the function: tried again while an attempt is left, whatever else is asked for."""
ON_REQUEST: tuple[Reason, ...] = ("error", "unserialisable", "timeout", "oom", "signal", "limit")
"""Failures of the function that a deployment may have tried again, too."""
LONGEST_PAUSE = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """`attempts`: starts at most; `reasons`: ends that are tried again; `backoff`: seconds before the second start.

    The pause doubles before each further start, up to `LONGEST_PAUSE`; 0 is none at all.
    """

    attempts: int
    reasons: frozenset[Reason] = PLATFORM
    backoff: float = 0.0

    def pause(self, attempt: int) -> float:
        """Seconds between the end of `attempt` and the start of the next one."""
        return min(self.backoff * 2.0 ** min(attempt - 1, 32), LONGEST_PAUSE)


def of(settings: Settings, max_attempts: int) -> Retries:
    """What a deployment's settings ask for; `max_attempts` is the server's, where they do not say how often."""
    return Retries(
        attempts=max_attempts if settings.retries is None else 1 + settings.retries,
        reasons=PLATFORM | frozenset(settings.retry_on or ()),
        backoff=settings.retry_backoff or 0.0,
    )


def problems(settings: Settings) -> Iterator[FieldError]:
    """Each reason that is none, or is not to be tried again."""
    for at, reason in enumerate(settings.retry_on or ()):
        if reason not in ON_REQUEST:
            allowed = ", ".join(ON_REQUEST)
            yield FieldError(field=f"retry_on[{at}]", message=f"must be one of {allowed}")
