"""Asking for a run's process ahead of the run."""

from __future__ import annotations

import contextlib

from faaspot_runner.contract import MAX_LOG_BYTES, MAX_RESULT_BYTES, Limits
from faaspot_runner.sandbox.cgroup_tree import RunSlot
from faaspot_runner.sandbox.channel import Channel
from faaspot_runner.sandbox.kept import Kept
from faaspot_runner.sandbox.log import RunLog
from faaspot_runner.sandbox.messages import Broken
from faaspot_runner.sandbox.outgoing import Outgoing
from faaspot_runner.sandbox.result import Frame
from faaspot_runner.sandbox.run import Run


def reserve(channel: Channel, *, id: str, limits: Limits, slot: RunSlot | None) -> Kept | None:  # noqa: A002
    """Have a fresh process that waits for its run; None if there is none to be had in a moment. Raises nothing."""
    run = Run(channel, Outgoing(b""), id, limits, slot, RunLog(MAX_LOG_BYTES), Frame(MAX_RESULT_BYTES), None)
    with contextlib.closing(run), contextlib.suppress(OSError, Broken):
        try:
            run.start()
            return run.reserved()
        finally:
            if not run.waits:
                run.kill()
    return None
