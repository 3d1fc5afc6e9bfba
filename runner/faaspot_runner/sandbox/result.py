"""What a run sends back, judged as what it is: bytes from hostile code that should be strict JSON."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Literal

from faaspot_runner.agent.wire import HEADER
from faaspot_runner.contract import MAX_RESULT_BYTES, Error, Reason
from faaspot_runner.sandbox.large import Incoming, Large, NoRoomError

ENVELOPE_BYTES = 256 * 1024
"""What a frame may have beyond the result itself: the error of a failed run."""
MESSAGE_CHARS = 4_000
TRACEBACK_CHARS = 48_000
LARGE_BYTES = 256 * 1024
"""Frames above it are judged one at a time: as Python objects they take up to thirty times their size."""
HEAD_BYTES = 1024
"""Of a frame with a large output: within them the output begins."""
_OUTPUT = b'"output":'
Open = Callable[[], IO[bytes]]
"""A new file for an output that is too long for a record."""
_large = threading.Lock()


class Malformed(Exception):
    """Not what the agent would send; the text says why."""


class TooLarge(Malformed):
    """A frame that is longer than any result may be, or than there is room for. `error`: for the record."""

    def __init__(self, most: int, error: Error | None = None) -> None:
        super().__init__(f"the frame of a result of at most {most} bytes is longer than any")
        self.error = error or too_large(most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The end of a run as it told it itself, or as it was seen. `output`: strict JSON text, if `reason` is None; or it
    is `large`.

    `began` and `finished`: when `main` was called and was done by its own word, `time.monotonic`; 0 if it said nothing.
    """

    reason: Reason | Literal["refused", "lost", "broken"] | None = None
    output: str | None = None
    large: Large | None = None
    error: Error | None = None
    cpu_ms: float = 0.0
    max_memory_mb: float = 0.0
    began: float = 0.0
    finished: float = 0.0


class Frame:
    """A frame while it comes in, piece by piece: never kept beyond its own length, nor that beyond what may be.

    What is longer than a record's output goes to a file, if there may be one.
    """

    def __init__(self, most: int, spool: Open | None = None) -> None:
        """`most`: the largest output in bytes."""
        self._most = most
        self._spool = spool
        self._received = bytearray()
        self._length = 0
        self._large: Incoming | None = None
        self._file: IO[bytes] | None = None
        self._beyond = False

    def add(self, data: bytes) -> bool:
        """Take a piece; True once it is whole. Raises Malformed, as TooLarge if it says that it is that."""
        if self._large is not None:
            return self._add_large(self._large, data)
        self._received += data
        if not self._length and len(self._received) >= HEADER:
            self._length = int.from_bytes(self._received[:HEADER], "big")
            if self._length == 0:
                raise Malformed("the process sent an empty frame")
            if self._length > self._most + ENVELOPE_BYTES:
                raise TooLarge(self._most)
        if self._spool is not None and self._length > MAX_RESULT_BYTES:
            return self._begin_large(self._spool)
        return 0 < self._length <= len(self._received) - HEADER

    def exact(self) -> bool:
        """Whether nothing came after it."""
        if self._large is not None:
            return not self._beyond
        return len(self._received) == HEADER + self._length

    def result(self) -> Result:
        """What is in it, once it is whole. Raises Malformed."""
        if self._large is None:
            return parse(bytes(self._received[HEADER : HEADER + self._length]), self._most)
        if not self._large.closed_well:
            raise Malformed("the process sent what is not a result")
        try:
            found = _told(bytes(self._received[HEADER:]), large=self._large.result())
        except NoRoomError as error:
            return Result(reason="limit", error=self._no_room(error).error)
        self._file = None  # it is the result's now
        return found

    def close(self) -> None:
        """Let go of the file, unless it went with the result."""
        if self._file is not None:
            self._file.close()

    def _begin_large(self, spool: Open) -> bool:
        """Everything up to the output stays here; only a result has one."""
        head, mark, output = self._received.partition(_OUTPUT)
        if not mark and len(head) < HEADER + HEAD_BYTES:
            return False
        if not mark or not head.startswith(b'{"ok":true,', HEADER) or len(head) > HEADER + HEAD_BYTES:
            raise Malformed("the process sent what is not a result")
        self._received = head + mark
        try:
            self._file = spool()
            self._large = Incoming(self._file, self._length + HEADER - len(self._received))
        except OSError as error:
            raise self._no_room(error.strerror) from error
        except NoRoomError as error:
            raise self._no_room(error) from error
        return self._add_large(self._large, bytes(output))

    def _add_large(self, large: Incoming, data: bytes) -> bool:
        try:
            taken = large.add(data)
        except NoRoomError as error:
            raise self._no_room(error) from error
        self._beyond = self._beyond or taken < len(data)
        return large.is_whole

    def _no_room(self, why: object) -> TooLarge:
        text = f"the spot cannot keep a result of {self._length} bytes: {why}"
        return TooLarge(self._most, Error(type="ResultTooLarge", message=text))


def parse(frame: bytes, most: int) -> Result:
    """The result in a frame; `most` is the largest output in bytes. Raises Malformed."""
    if len(frame) < LARGE_BYTES:
        return _parse(frame, most)
    with _large:
        return _parse(frame, most)


def _parse(frame: bytes, most: int) -> Result:
    if frame.startswith(b'{"ok":true,'):
        return _success(frame, most)
    message = _object(frame)
    if message.get("ok") is not False or message.get("reason") not in ("error", "unserialisable", "limit"):
        raise Malformed("the process sent what is not a result")
    return Result(
        reason=message["reason"],
        error=bounded_error(message.get("error")),
        began=number(message.get("began")),
        finished=number(message.get("finished")),
    )


def _success(frame: bytes, most: int) -> Result:
    """The output's text is taken as it is, once it is known to be strict JSON: it may be large."""
    head, mark, tail = frame.partition(_OUTPUT)
    if not mark or not tail.endswith(b"}"):
        raise Malformed("the process sent what is not a result")
    output = tail[:-1]
    if len(output) > most:
        return Result(reason="limit", error=too_large(most))
    _loaded(output)
    return _told(head + mark, output=output.decode())


def _told(head: bytes, *, output: str | None = None, large: Large | None = None) -> Result:
    """A result, by all that stands in its frame before the output."""
    told = _object(head + b"null}")
    return Result(
        output=output,
        large=large,
        cpu_ms=number(told.get("cpu_ms")),
        max_memory_mb=number(told.get("max_memory_mb")),
        began=number(told.get("began")),
        finished=number(told.get("finished")),
    )


def _object(data: bytes) -> dict[str, Any]:
    message = _loaded(data)
    if not isinstance(message, dict):
        raise Malformed("the process sent what is not a result")
    return message


def _loaded(data: bytes) -> Any:
    try:
        value = json.loads(data.decode(), parse_constant=_no_constant)
        if b"\\ud" in data or b"\\uD" in data:
            # An escaped lone surrogate passes the parser, but no encoder after it.
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise Malformed("the result is nested too deeply") from None
    except ValueError as error:
        raise Malformed(f"the result is not strict JSON: {error}") from None
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def bounded_error(error: Any) -> Error:
    """An `Error` from what a sandbox said, whatever it said; text that UTF-8 and databases can hold."""
    fields = error if isinstance(error, dict) else {}
    trace = fields.get("traceback")
    return Error(
        type=_text(fields.get("type", "Error"), 200),
        message=_text(fields.get("message", ""), MESSAGE_CHARS),
        traceback=_text(trace, TRACEBACK_CHARS) if trace is not None else None,
    )


def too_large(most: int) -> Error:
    """The error of a result beyond its limit."""
    return Error(type="ResultTooLarge", message=f"the result is larger than the limit of {most} bytes of JSON")


def number(value: Any) -> float:
    """A plausible quantity, else 0."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e12 else 0.0


def _text(value: Any, most: int) -> str:
    # Of what is no text only its kind: to print a deeply nested value fails where to parse it did not.
    text = value if isinstance(value, str) else f"({type(value).__name__})"
    return text[:most].encode("utf-8", "backslashreplace").decode().replace("\0", "\ufffd")
