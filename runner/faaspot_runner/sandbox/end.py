"""Why the watching of a run stopped, as its caller may read it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Literal

from faaspot_runner.contract import Error, Reason
from faaspot_runner.sandbox.messages import Broken, Refused
from faaspot_runner.sandbox.result import Malformed, TooLarge


@dataclass(frozen=True, slots=True)
class End:
    """Why the watching stopped. `reason` None: a result is there."""

    reason: Reason | Literal["refused", "lost", "broken"] | None
    error: Error | None = None


def lost(message: str) -> End:
    """The zygote is gone, or as good as that."""
    return End("lost", Error(type="SandboxLost", message=message))


def refused(said: Refused) -> End:
    """There was no process."""
    return End("refused", Error(type="Refused", message=said.message))


def malformed(error: Malformed) -> End:
    """The process sent what is no result, or one that is too large."""
    if isinstance(error, TooLarge):
        return End("limit", error.error)
    return End("unserialisable", Error(type="Unserialisable", message=str(error)))


def died(status: int) -> End:
    """The end of a process that left no result, from its wait status."""
    if os.WIFSIGNALED(status):
        text = f"the process died of {signal_name(os.WTERMSIG(status))}"
        return End("signal", Error(type="Signal", message=text))
    code = os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else status
    return End("error", Error(type="NoResult", message=f"the process left without a result, with exit status {code}"))


def signal_name(number: int) -> str:
    """ "SIGSEGV", or the number of a signal without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def broken(error: Broken | str) -> End:
    """The zygote does not keep to its wire."""
    return End("broken", Error(type="SandboxBroken", message=f"the sandbox broke the protocol: {error}"))
