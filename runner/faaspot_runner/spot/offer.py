"""The answers to a worker: to one that asks for a sandbox a channel to its zygote, to one that builds what it asks."""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from structlog.contextvars import bound_contextvars

from faaspot_runner.connectors.base import Log
from faaspot_runner.contract import Error, Reason, sandbox_spec
from faaspot_runner.errors import SandboxError
from faaspot_runner.runtimes.pool import Acquired, SandboxPool
from faaspot_runner.runtimes.spot_socket import told_of
from faaspot_runner.sandbox.spec import Interpreter

log = logging.getLogger(__name__)

MOST_LINES, MOST_CHARACTERS = 100, 500
"""Of a preparation's log: the last lines, and the beginning of each, whatever an engine says."""


async def offer(pool: SandboxPool, message: dict[str, Any]) -> tuple[dict[str, Any], socket.socket | None]:
    """The answer to an `acquire`, with its channel if there is one. Raises nothing: who asked waits for an answer."""
    with bound_contextvars(**message.get("about", {})):
        answer, channel = await _answer(pool, message)
        log.info(answer["op"], extra={name: answer[name] for name in ("sandbox", "cold", "reason") if name in answer})
    return answer, channel


async def _answer(pool: SandboxPool, message: dict[str, Any]) -> tuple[dict[str, Any], socket.socket | None]:
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
    except Exception as error:  # noqa: BLE001
        return call | _unforeseen(error), None
    sandbox = acquired.sandbox
    told = {"sandbox": sandbox.id, "cold": acquired.cold, "counted": sandbox.counted}
    told |= {"start_ms": sandbox.start_ms, "import_ms": sandbox.import_ms, "imports": dict(sandbox.imports)}
    return call | {"op": "acquired", **told, "log": sandbox.log if acquired.first else ""}, channel


async def prepare(work: Callable[[Log], Awaitable[Interpreter | None]], call: int) -> dict[str, Any]:
    """The answer once that work is done, with what it logged. Raises nothing, as `offer`."""
    lines: deque[str] = deque(maxlen=MOST_LINES)
    try:
        made_for = await work(lambda line: lines.append(line[:MOST_CHARACTERS]))
    except SandboxError as error:
        return {"call": call} | _failed(error.error, error.reason, error.log)
    except Exception as error:  # noqa: BLE001
        return {"call": call} | _unforeseen(error)
    return {"call": call, "op": "prepared", "interpreter": made_for and told_of(made_for), "log": "\n".join(lines)}


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


def _unforeseen(error: Exception) -> dict[str, Any]:
    """What is not foreseen is the platform's: worth another attempt, and no reason to let the worker wait."""
    log.error("a worker's question has no answer", exc_info=error)
    return _failed(Error(type=type(error).__name__, message=str(error)))


def _failed(error: Error, reason: Reason | None = None, log: str = "") -> dict[str, Any]:
    told = {"type": error.type, "message": error.message, "traceback": error.traceback}
    return {"op": "failed", "reason": reason, "error": told, "log": log}
