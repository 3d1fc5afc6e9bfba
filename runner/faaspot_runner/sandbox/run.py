"""One execution in a sandbox, driven from a worker's thread: ask the zygote, feed the child, watch, kill, tell.

What comes from inside is untrusted: every read is bounded, the first result wins, the process is sent SIGKILL before
`run_once` returns, whatever happened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from faaspot_runner.contract import MAX_LOG_BYTES, MAX_RESULT_BYTES, Error, Limits, Reason
from faaspot_runner.sandbox.cgroup_tree import RunSlot
from faaspot_runner.sandbox.channel import Channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. `output` is strict JSON text (None unless Success); the rest as in `contract.RunEnded`.

    `reason` has two words of our own, both with status Failure and both the platform's failure, worth another attempt:
    "refused" (the zygote could not fork; nothing of the user ran) and "lost" (the zygote died under the run).
    `start_ms`: asked until forked; `run_ms`: from then until the end. `stuck`: a death on this channel is overdue (tell
    the spot that its sandbox is suspect).
    """

    status: Literal["Success", "Failure", "Cancelled"]
    reason: Reason | Literal["refused", "lost"] | None = None
    output: str | None = None
    error: Error | None = None
    log: str = ""
    logs_truncated: bool = False
    start_ms: float | None = None
    run_ms: float | None = None
    max_memory_mb: float | None = None
    cpu_ms: float | None = None
    stuck: bool = False


def request_frame(args: str, context: str, environ: dict[str, str], result_limit: int = MAX_RESULT_BYTES) -> bytes:
    """The frame that a child is sent. `args` and `context`: JSON texts of dicts, put in as they are."""
    raise NotImplementedError


def run_once(
    channel: Channel,
    request: bytes,
    *,
    id: str,  # noqa: A002 (the wire's word)
    limits: Limits,
    deadline: float,
    slot: RunSlot | None = None,
    cancelled: int | None = None,
    on_log: Callable[[bytes], None] | None = None,
    result_limit: int = MAX_RESULT_BYTES,
    log_limit: int = MAX_LOG_BYTES,
) -> Outcome:
    """Run `main` once and return how it ended; blocks, at most until shortly after `deadline` (`time.monotonic`).

    `request`: from `request_frame`. `slot`: the run's cgroup, None in the rlimit grade (the memory is then watched from
    here). `cancelled`: a descriptor (eventfd) whose readability cancels the run. `on_log`: gets each piece of the log
    as it comes, as long as it is kept. When the outcome is reported, call `channel.settle()`, then release the slot.
    Raises nothing that a run can cause.
    """
    raise NotImplementedError
