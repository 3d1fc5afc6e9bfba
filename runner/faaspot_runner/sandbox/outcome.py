"""What a run is sent, and how it ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from faaspot_runner.agent import wire
from faaspot_runner.contract import MAX_RESULT_BYTES, Error, LargeValue, Reason
from faaspot_runner.sandbox.kept import Kept
from faaspot_runner.sandbox.large import Large


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. `output` is strict JSON text (None unless Success), or it is `large`, in a file that whoever has
    this closes; the rest as in `contract.RunEnded`.

    `reason` has three words of our own, with status Failure. Two are the platform's failure, worth another attempt:
    "refused" (the zygote could not fork; nothing of the user ran) and "lost" (the zygote died under the run, or never
    said which process it is). "broken": the zygote does not keep to its wire, which another attempt meets again.
    `start_ms`: asked until forked; `run_ms`: from then until the end. `forked`, `began`, `finished`: `time.monotonic`
    of when the process was named and `main` was called and done; the last two by the process' own word, and only if
    they lie where they must.
    """

    status: Literal["Success", "Failure", "Cancelled"]
    reason: Reason | Literal["refused", "lost", "broken"] | None = None
    output: str | None = None
    large: Large | None = None
    error: Error | None = None
    log: str = ""
    logs_truncated: bool = False
    start_ms: float | None = None
    run_ms: float | None = None
    max_memory_mb: float | None = None
    cpu_ms: float | None = None
    kept: Kept | None = None
    forked: float | None = None
    began: float | None = None
    finished: float | None = None


def request_frame(
    args: str | LargeValue,
    context: str,
    environ: dict[str, str],
    result_limit: int = MAX_RESULT_BYTES,
    *,
    keep: bool = False,
    nice: int = 0,
) -> bytes:
    """The frame that a child is sent. `args` and `context`: JSON texts of dicts, put in as they are; large args follow.

    `keep`: it shall wait for another when it has answered. `nice`: by how much others go before it.
    """
    told: dict[str, object] = {"environ": environ, "result_limit": result_limit}
    told |= {name: value for name, value in (("keep", keep), ("nice", nice)) if value}
    rest = json.dumps(told, separators=(",", ":"))
    given = f'"args_bytes":{args.size}' if isinstance(args, LargeValue) else f'"args":{args}'
    return wire.frame(f'{{{given},"context":{context},{rest[1:]}'.encode())
