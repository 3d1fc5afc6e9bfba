"""What a zygote says, judged strictly: it is as untrusted as its deployment, whose import may have written it.

So is what a launcher says: in a container it runs by the interpreter of an image, which can be anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from faaspot_runner.contract import Error
from faaspot_runner.sandbox.result import bounded_error

MOST_STATUS = 0xFFFF
"""The largest wait status; the functions of `os` that read one raise OverflowError far beyond it."""
MOST_ERRNO = 4095
MOST_IMPORTS = 16
NAME_CHARS = 100
MESSAGE_CHARS = 1_000
_MOST = 1e12


class Broken(Exception):
    """The zygote does not keep to its wire; the text says how."""


# ---------------------------------------------------------------- of a run


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked:
    """The run has a process, whose pidfd comes with it."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """The run's process is dead. `status`: a wait status; `cpu_ms`, `max_memory_mb`: 0 if it does not know."""

    id: str
    status: int
    cpu_ms: float
    max_memory_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The run has no process."""

    id: str
    errno: int
    message: str


def of_run(message: Mapping[str, Any]) -> Forked | Exited | Refused:
    """What it says of a run, this one or an earlier one. Raises Broken."""
    match message["op"]:
        case "forked":
            return Forked(id=_text(message, "id"))
        case "exited":
            return Exited(
                id=_text(message, "id"),
                status=_integer(message, "status", MOST_STATUS),
                cpu_ms=_quantity(message, "cpu_ms", 0.0),
                max_memory_mb=_quantity(message, "max_memory_mb", 0.0),
            )
        case "refused":
            return Refused(
                id=_text(message, "id"),
                errno=_integer(message, "errno", MOST_ERRNO),
                message=_text(message, "message")[:MESSAGE_CHARS],
            )
    raise Broken(f"{message['op'][:50]!r} is no word about a run")


# ---------------------------------------------------------------- of a launch


@dataclass(frozen=True, slots=True)
class Launched:
    """The sandbox has a holder, whose pidfd comes with it."""


def of_launch(message: Mapping[str, Any]) -> Launched | SetUpFailed:
    """The launcher's answer. Raises Broken."""
    match message["op"]:
        case "launched":
            return Launched()
        case "failed":
            text = bounded_error(message).message[:MESSAGE_CHARS]
            return SetUpFailed(stage="user namespace", errno=_integer(message, "errno", MOST_ERRNO), message=text)
    raise Broken(f"{message['op'][:50]!r} is no word about a launch")


# ---------------------------------------------------------------- of the start


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The user's module is imported. `imports`: its slowest modules, each by itself, in milliseconds."""

    import_ms: float
    imports: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blank:
    """The packages of one that has no code yet are imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportFailed:
    """The user's import raised."""

    error: Error


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUpFailed:
    """The sandbox did not come so far; the words of its init."""

    stage: str
    errno: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The zygote ended without a word; its init tells the wait status."""

    status: int


def of_start(message: Mapping[str, Any]) -> Ready | Blank | ImportFailed | SetUpFailed | Ended:
    """The first word on a control channel, or after `Blank` the second. Raises Broken."""
    match message["op"]:
        case "ready":
            return Ready(import_ms=_quantity(message, "import_ms"), imports=_imports(message))
        case "blank":
            return Blank()
        case "ended":
            return Ended(status=_integer(message, "status", MOST_STATUS))
        case "failed":
            error = message.get("error")
            if not isinstance(error, dict):
                raise Broken("its error is no object")
            if "stage" not in message:
                return ImportFailed(error=bounded_error(error))
            return SetUpFailed(
                stage=_text(message, "stage")[:MESSAGE_CHARS],
                errno=_integer(message, "errno", MOST_ERRNO),
                message=_text(error, "message")[:MESSAGE_CHARS],
            )
    raise Broken(f"{message['op'][:50]!r} is no word about its start")


# ---------------------------------------------------------------- fields


def _text(message: Mapping[str, Any], name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str):
        raise Broken(f"its {name} is no text")
    return value


def _imports(message: Mapping[str, Any]) -> dict[str, float]:
    told = message.get("imports", {})
    if not isinstance(told, dict) or len(told) > MOST_IMPORTS:
        raise Broken("its imports are no short list")
    return {_printable(name): _quantity(told, name) for name in told}


def _printable(name: str) -> str:
    return name[:NAME_CHARS].encode("utf-8", "backslashreplace").decode().replace("\0", "\ufffd")


def _integer(message: Mapping[str, Any], name: str, most: int) -> int:
    value = message.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise Broken(f"its {name} is none from 0 to {most}")
    return value


def _quantity(message: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = message.get(name, default)
    # Compared before it is converted: a whole number may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST:
        raise Broken(f"its {name} is no quantity")
    return float(value)
