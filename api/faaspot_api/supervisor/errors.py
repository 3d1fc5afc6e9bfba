"""Why the platform does not start."""

from __future__ import annotations


class CannotStartError(Exception):
    """The platform cannot start here; one line that says why and what to do."""
