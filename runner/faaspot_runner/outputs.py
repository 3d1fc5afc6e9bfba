"""What functions return that is too long for a record: kept where the platform keeps blobs."""

from __future__ import annotations

from dataclasses import replace

from faaspot_runner.blobs import BlobError, Blobs
from faaspot_runner.contract import Error, LargeValue
from faaspot_runner.sandbox.large import Large
from faaspot_runner.sandbox.outcome import Outcome


def kept(outcome: Outcome, blobs: Blobs) -> Outcome:
    """The outcome once its large output is a blob, or as the failure to keep it."""
    if outcome.large is None:
        return outcome
    with outcome.large.file as file:
        try:
            blobs.keep(file, outcome.large.digest)
        except BlobError as error:
            said = Error(type="ResultTooLarge", message=f"its result of {outcome.large.size} bytes: {error}")
            return replace(outcome, status="Failure", reason="limit", error=said, large=None)
    return outcome


def told(large: Large | None) -> LargeValue | None:
    """What the record needs to know of it."""
    return None if large is None else LargeValue(digest=large.digest, size=large.size)
