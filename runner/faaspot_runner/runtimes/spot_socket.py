"""The socket between a worker and its spot: an inherited SOCK_SEQPACKET pair, one JSON object a message.

::

    worker -> spot  {"op": "acquire", "call": n, "spec": {..}, "seconds": s, "avoid": id | null, "about": {..}}
                                                                            about: what the log of this thread is about
                    {"op": "used", "sandboxes": [id, ..], "running": n}     every `USED_SECONDS`
                    {"op": "suspect", "call": n, "sandbox": id, "stuck": b}  kill it whole; stuck: a death did not come.
                                                                            `failed` answers: what became of it
                    {"op": "interpreter", "call": n, "runtime": name, "python": minor}
                                                                            what are its environments made for?
                    {"op": "keep", "call": n, "runtime": name, "python": minor, "environment": name | null}
                                                                            prepare a version's start: it was built
    spot -> worker  {"op": "welcome", "cgroups": text | null, "interpreters": [..]}    once, first
                    {"op": "acquired", "call": n, "sandbox": id, "cold": b, "counted": b, "start_ms": f, "import_ms": f,
                     "imports": {name: f}, "log": ".."}                       + 1 descriptor: a channel to the zygote
                    {"op": "prepared", "call": n, "interpreter": {..} | null, "log": ".."}    to interpreter and keep
                    {"op": "failed", "call": n, "reason": r | null, "error": {..}, "log": ".."}
                    {"op": "gone", "sandbox": id}                           it takes no more runs: forget its channels
                    {"op": "cancel", "execution_id": id}
                    {"op": "look"}                                          messages may have been missed: read the keys
                    {"op": "hurry"}                                         the grace is over: stop what runs
                    {"op": "pause", "paused"}                               take nothing new, or take again

Both ends are ours; a message that cannot be read is a defect and ends the worker.
"""

from __future__ import annotations

import array
import itertools
import json
import os
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Never

from structlog.contextvars import get_contextvars

from faaspot_runner.contract import LOG_CUT_MARK, Error, SandboxSpec
from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox.spec import Interpreter

MAX_MESSAGE = 256 * 1024
"""Fits into a socket's default buffer, which bounds a message of this kind."""
USED_SECONDS = 2.0


class SpotGoneError(Exception):
    """The spot closed the socket: it is dead or dying, and so are its sandboxes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """What the spot answers to `acquire`: a channel to the zygote. `log`: the import's, for the first asker only.

    `counted`: a run in it goes into a cgroup slot of this worker.
    """

    channel: socket.socket
    sandbox: str
    cold: bool
    counted: bool
    start_ms: float
    import_ms: float
    log: str
    imports: Mapping[str, float] = field(default_factory=dict)


def encode(message: dict[str, Any]) -> bytes:
    """The message's bytes. Texts of a function's (log, traceback) are cut until it fits."""
    data = _dump(message)
    while len(data) > MAX_MESSAGE and _halve(message):
        data = _dump(message)
    return data


def _dump(message: dict[str, Any]) -> bytes:
    # A lone surrogate, which a traceback may hold, has no UTF-8 form.
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")


def _halve(message: dict[str, Any]) -> bool:
    """Cut the longer half off the longest of the long texts; False if there is none."""
    places = [(message, "log"), *((message.get("error") or {}, name) for name in ("traceback", "message"))]
    where, name = max(places, key=lambda place: len(place[0].get(place[1]) or ""))
    text = where.get(name) or ""
    if len(text) < 1024:
        return False
    where[name] = text[: len(text) // 2] + LOG_CUT_MARK.format(dropped=len(text) - len(text) // 2)
    return True


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message with its descriptors, None at the end. Raises OSError, BlockingIOError if there is none yet."""
    data, ancillary, _, _ = sock.recvmsg(MAX_MESSAGE, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, part in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(part)
    return (json.loads(data), list(fds)) if data else None


def welcome(cgroups: str | None, interpreters: Iterable[Interpreter]) -> dict[str, Any]:
    """The spot's first message."""
    return {"op": "welcome", "cgroups": cgroups, "interpreters": [told_of(each) for each in interpreters]}


def told_of(interpreter: Interpreter) -> dict[str, Any]:
    """An interpreter as a message has it."""
    return {**asdict(interpreter), "executable": str(interpreter.executable), "prefix": str(interpreter.prefix)}


def _interpreter(told: dict[str, Any]) -> Interpreter:
    return Interpreter(**{**told, "executable": Path(told["executable"]), "prefix": Path(told["prefix"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the spot answers to `interpreter` and `keep`. `log`: lines for a build's log."""

    interpreter: Interpreter | None
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a worker does with the spot's words; called from the client's own thread, must not block."""

    cancel: Callable[[str], None]
    look: Callable[[], None]
    gone: Callable[[str], None]
    hurry: Callable[[], None]
    ended: Callable[[], None]
    pause: Callable[[bool], None]


class SpotClient:
    """The worker's end; its threads share it."""

    def __init__(self, sock: socket.socket) -> None:
        """Waits for the spot's welcome. Raises SpotGoneError."""
        self._socket = sock
        self._calls: dict[int, Future[Any]] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._over = False
        first = receive(sock)
        if first is None:
            raise SpotGoneError("the spot is gone")
        self.cgroups: str | None = first[0]["cgroups"]
        self.interpreters = {each["version"]: _interpreter(each) for each in first[0]["interpreters"]}

    def listen(self, heard: Heard) -> None:
        """Begin to hear the spot, in a thread of its own."""
        threading.Thread(target=self._listen, args=(heard,), name="spot", daemon=True).start()

    def acquire(self, spec: SandboxSpec, seconds: float, avoid: str | None = None) -> Future[Offered]:
        """Ask for a channel to the spec's sandbox, which is started if need be, within `seconds`.

        The future raises SandboxError, or SpotGoneError. Cancel it to leave; a channel that still comes is closed.
        """
        asked = {"op": "acquire", "spec": asdict(spec), "seconds": seconds, "avoid": avoid}
        return self._call({**asked, "about": get_contextvars()})

    def interpreter(self, runtime: str, python: str) -> Future[Prepared]:
        """Ask what the environments of a runtime are made for. The future raises SandboxError, or SpotGoneError."""
        return self._call({"op": "interpreter", "runtime": runtime, "python": python})

    def keep(self, runtime: str, python: str, environment: str | None) -> Future[Prepared]:
        """Have the start of a version prepared whose environment is there. The future raises as above."""
        return self._call({"op": "keep", "runtime": runtime, "python": python, "environment": environment})

    def used(self, sandboxes: Collection[str], running: int) -> None:
        """Tell which sandboxes were used since the last time, and how many executions are in flight."""
        self._send({"op": "used", "sandboxes": list(sandboxes), "running": running})

    def suspect(self, sandbox: str, *, stuck: bool) -> Future[Never]:
        """Have a sandbox killed whole: it is lost, or (`stuck`) a process in it got SIGKILL and does not die.

        The future raises SandboxError, with a reason if the spot had killed it for what its deployment did, or
        SpotGoneError.
        """
        return self._call({"op": "suspect", "sandbox": sandbox, "stuck": stuck})

    def _call(self, question: dict[str, Any]) -> Future[Any]:
        number = next(self._numbers)
        future: Future[Any] = Future()
        with self._lock:
            if self._over:
                raise SpotGoneError("the spot is gone")
            self._calls[number] = future
        self._send({**question, "call": number})
        return future

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.send(encode(message))
        except OSError as error:
            raise SpotGoneError("the spot is gone") from error

    def _listen(self, heard: Heard) -> None:
        try:
            while (received := receive(self._socket)) is not None:
                self._hear(heard, *received)
        except ConnectionError:
            pass  # a spot that was killed resets the socket: its end, too
        finally:
            self._end()
            heard.ended()

    def _hear(self, heard: Heard, message: dict[str, Any], fds: list[int]) -> None:
        match message["op"]:
            case "acquired" | "prepared" | "failed":
                self._answer(message, fds)
            case "cancel":
                heard.cancel(message["execution_id"])
            case "gone":
                heard.gone(message["sandbox"])
            case "look":
                heard.look()
            case "hurry":
                heard.hurry()
            case "pause":
                heard.pause(message["paused"])

    def _answer(self, message: dict[str, Any], fds: list[int]) -> None:
        with self._lock:
            future = self._calls.pop(message["call"], None)
        # From here on a cancel comes too late; before, the asker has left.
        wanted = future is not None and future.set_running_or_notify_cancel()
        if message["op"] == "failed":
            if wanted and future:
                error = Error(**message["error"])
                future.set_exception(
                    SandboxError(error.message, reason=message["reason"], error=error, log=message["log"])
                )
        elif message["op"] == "prepared":
            if wanted and future:
                told = message["interpreter"]
                future.set_result(Prepared(interpreter=told and _interpreter(told), log=message["log"]))
        elif wanted and future:
            names = ("sandbox", "cold", "counted", "start_ms", "import_ms", "log")
            offered = {name: message[name] for name in names}
            imports = message.get("imports", {})
            future.set_result(Offered(channel=socket.socket(fileno=fds[0]), imports=imports, **offered))
        else:
            os.close(fds[0])

    def _end(self) -> None:
        with self._lock:
            self._over = True
            left = list(self._calls.values())
            self._calls.clear()
        for future in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(SpotGoneError("the spot is gone"))
