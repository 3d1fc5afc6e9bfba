"""The answer to a worker that asks for a sandbox: a channel to its zygote, or why there is none."""

from __future__ import annotations

import logging
import socket
import time
from typing import Any

from faaspot_runner.contract import Error, Reason, sandbox_spec
from faaspot_runner.errors import SandboxError
from faaspot_runner.runtimes.pool import Acquired, SandboxPool

log = logging.getLogger(__name__)


async def offer(pool: SandboxPool, message: dict[str, Any]) -> tuple[dict[str, Any], socket.socket | None]:
    """The answer to an `acquire`, with its channel if there is one. Raises nothing: who asked waits for an answer."""
    call = {"call": message["call"]}
    try:
        acquired, channel = await _connected(pool, message)
    except SandboxError as error:
        return call | _failed(error.error, error.reason, error.log), None
    except TimeoutError:
        text = f"The function did not start within {message['seconds']:.3g} s."
        return call | _failed(Error(type="Timeout", message=text), "timeout"), None
    except OSError as error:
        log.warning("no channel to a sandbox: %s", error)
        return call | _failed(Error(type="OSError", message=str(error))), None
    except Exception as error:
        # What is not foreseen is the platform's: worth another attempt, and no reason to let the worker wait.
        log.exception("no sandbox for a worker")
        return call | _failed(Error(type=type(error).__name__, message=str(error))), None
    sandbox = acquired.sandbox
    told = {"sandbox": sandbox.id, "cold": acquired.cold, "start_ms": sandbox.start_ms, "import_ms": sandbox.import_ms}
    return call | {"op": "acquired", **told, "log": sandbox.log if acquired.first else ""}, channel


def fate(pool: SandboxPool, message: dict[str, Any]) -> dict[str, Any]:
    """The answer to a `suspect`: it is gone, and if it was killed for what its deployment did, with the reason."""
    killed = pool.fate(message["sandbox"])
    gone = Error(type="SandboxLost", message="the sandbox is gone")
    return {"call": message["call"]} | _failed(killed or gone, "oom" if killed else None)


async def _connected(pool: SandboxPool, message: dict[str, Any]) -> tuple[Acquired, socket.socket]:
    """A sandbox and a channel to it; another one if the first was dying, whose init outlives its zygote by a moment."""
    spec, deadline = sandbox_spec(message["spec"]), time.monotonic() + message["seconds"]
    acquired = await pool.acquire(spec, deadline, message["avoid"])
    try:
        return acquired, acquired.sandbox.connect()
    except ConnectionError:
        pool.suspect(acquired.sandbox.id)
    acquired = await pool.acquire(spec, deadline)
    return acquired, acquired.sandbox.connect()


def _failed(error: Error, reason: Reason | None = None, log: str = "") -> dict[str, Any]:
    told = {"type": error.type, "message": error.message, "traceback": error.traceback}
    return {"op": "failed", "reason": reason, "error": told, "log": log}
