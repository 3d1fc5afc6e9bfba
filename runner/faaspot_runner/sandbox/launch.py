"""Starts sandboxes: asks the launcher process for a new one, and runs single commands in one."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faaspot_runner.contract import Limits, Reason
from faaspot_runner.sandbox.cgroups import Cgroups
from faaspot_runner.sandbox.spec import Bind, Interpreter


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """How a command ended. `reason`: None if it left with status 0, else timeout, oom, signal, limit or error.

    `log`: stdout and stderr, the first `log_limit` bytes, with a mark where it was cut. `code`: exit status, None if
    it died of a signal.
    """

    reason: Reason | None
    code: int | None
    log: str
    log_truncated: bool = False
    problem: str = ""


async def run_command(
    argv: Sequence[str],
    *,
    python: Interpreter,
    limits: Limits,
    timeout: float,
    binds: Sequence[Bind] = (),
    environment: Path | None = None,
    environ: dict[str, str] | None = None,
    output: int | None = None,
    output_limit: int = 0,
    relay: tuple[int, socket.socket] | None = None,
    cgroups: Cgroups | None = None,
    log_limit: int = 256 * 1024,
) -> CommandResult:
    """Run one command in a throw-away sandbox of profile `build`; all of it is dead when this returns.

    Inside: the system's directories, the interpreter at `/python`, `binds` (read-only), `environment` at `/env`, a
    writable /tmp of `limits.tmp` MB (also the working directory), no context, no network. uid 1000, no capabilities.

    `output`: a host descriptor (a regular file, opened by the caller) that gets what the command writes to its
    descriptor 3, at most `output_limit` bytes (beyond it: reason "limit"); a tar stream of what was built.
    `relay`: (port, SOCK_SEQPACKET socket). 127.0.0.1:port inside the sandbox listens, and every accepted connection
    comes out of the socket as one message with one descriptor, an AF_INET stream socket: take it by `accept_relayed`.
    `environ`: variables beside PATH, HOME, TMPDIR, LANG, TZ.

    Raises SandboxError if no sandbox came up, FeatureMissing among them.
    """
    raise NotImplementedError


def accept_relayed(relay: socket.socket) -> socket.socket | None:
    """The next connection that a sandboxed command made to its relay port, None when there will be no more. Blocks.

    What is not a TCP socket is closed and skipped: the sender is untrusted.
    """
    raise NotImplementedError
