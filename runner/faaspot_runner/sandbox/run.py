"""One execution in a sandbox, driven from a worker's thread: ask the zygote, feed the child, watch, kill, tell.

What comes from inside is untrusted: every read is bounded, the first result wins, the process is sent SIGKILL before
`run_once` returns, whatever happened.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from faaspot_runner.agent import wire
from faaspot_runner.contract import MAX_LOG_BYTES, MAX_RESULT_BYTES, Error, Limits, Reason
from faaspot_runner.sandbox.cgroup_tree import RunSlot
from faaspot_runner.sandbox.channel import DEATH_SECONDS, Channel
from faaspot_runner.sandbox.log import RunLog
from faaspot_runner.sandbox.memory import MemoryWatch
from faaspot_runner.sandbox.result import ENVELOPE_BYTES, Malformed, Result, number, parse, too_large

POLL_MEMORY_SECONDS = 0.025
FORK_SECONDS = 10.0
"""How long a zygote may take to say that it has forked; one that was stopped or is caught in a loop never says it."""
GONE_SECONDS = 0.25
"""How long a run that closed its channel may take to be reported dead before it is killed."""
_CHUNK = 65536


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
    rest = json.dumps({"environ": environ, "result_limit": result_limit}, separators=(",", ":"))
    return wire.frame(f'{{"args":{args},"context":{context},{rest[1:]}'.encode())


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
    log = RunLog(log_limit, on_log)
    run = _Run(channel, request, id, limits, slot, log, result_limit)
    try:
        run.start()
        end = run.watch(deadline, cancelled)
    except OSError as error:
        end = _End("lost", Error(type="SandboxLost", message=f"the sandbox is gone: {error}"))
    finally:
        run.kill()
    outcome = run.outcome(end)
    run.close()
    return outcome


@dataclass(frozen=True, slots=True)
class _End:
    """Why the watching stopped. `reason` None: a result is there."""

    reason: Reason | Literal["refused", "lost"] | None
    error: Error | None = None


class _Run:
    """One run in flight: its result channel, its log, its process."""

    def __init__(
        self, channel: Channel, request: bytes, name: str, limits: Limits, slot: RunSlot | None, log: RunLog, most: int
    ) -> None:
        self._channel = channel
        self._id = name
        self._limits = limits
        self._slot = slot
        self._log = log
        self._most = most
        self._to_send = memoryview(request)
        self._received = bytearray()
        self._result, self._result_theirs = socket.socketpair()
        self._result.setblocking(False)
        self._pid = self._pidfd = -1
        self._exited: dict[str, Any] | None = None
        self._watch: MemoryWatch | None = None
        self._asked = time.monotonic()
        self._forked: float | None = None
        self._ended: float | None = None
        self._killed = False

    # ------------------------------------------------------------ the way of a run

    def start(self) -> None:
        """Ask for a child and write the request, which it finds as soon as it looks. Raises OSError."""
        fds = [self._result_theirs.fileno(), self._log.write_end, *(self._slot.files if self._slot else ())]
        self._channel.send({"op": "run", "id": self._id}, fds)
        self._result_theirs.close()
        self._log.close_write_end()
        self._send_request()

    def watch(self, deadline: float, cancelled: int | None) -> _End:
        """Until there is a result, or a reason to end without one. Raises OSError if the zygote's channel fails."""
        poll = select.poll()
        result, log, zygote = self._result.fileno(), self._log.read_end, self._channel.fileno()
        for fd in (log, zygote):
            poll.register(fd, select.POLLIN)
        poll.register(result, select.POLLIN | (select.POLLOUT if self._to_send else 0))
        if cancelled is not None:
            poll.register(cancelled, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return _End("timeout", Error(type="Timeout", message=f"it ran longer than {self._limits.timeout:g} s"))
            if self._forked is None and time.monotonic() > self._asked + FORK_SECONDS:
                return _End("lost", Error(type="SandboxLost", message="the sandbox does not answer"))
            events = dict(poll.poll(self._pause(left)))
            if events.get(result, 0) & select.POLLOUT and self._send_request():
                poll.modify(result, select.POLLIN)
            if events.get(log) and not self._log.drain():
                poll.unregister(log)
            # The result first: a zygote that dies right after it has not lost the run.
            if events.get(result, 0) & ~select.POLLOUT and (end := self._take()):
                return end
            if events.get(zygote) and (end := self._hear()):
                return end
            if cancelled is not None and events.get(cancelled):
                return _End("cancelled", Error(type="Cancelled", message="it was cancelled"))
            if self._slot is None and not events and self._too_much_memory():
                return self._oom()

    def kill(self) -> None:
        """SIGKILL to the init of the run's pid namespace. Without a pidfd wait for it a moment: it is on its way."""
        self._ended = self._ended or time.monotonic()
        self._result_theirs.close()
        self._log.close_write_end()
        if self._pidfd < 0 and self._exited is None:
            with contextlib.suppress(OSError):
                self._await(lambda: self._pidfd >= 0 or self._exited is not None, DEATH_SECONDS)
        if self._watch is not None:
            self._watch.cpu_ms()
        if self._pidfd >= 0 and not self._killed:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        self._result.close()
        self._log.close()
        if self._watch is not None:
            self._watch.close()
        if self._pidfd >= 0:
            self._channel.dying(self._pidfd)

    # ------------------------------------------------------------ events

    def _pause(self, left: float) -> float:
        """Milliseconds to wait at most."""
        if self._forked is None:
            left = min(left, FORK_SECONDS)
        elif self._slot is None:
            left = min(left, POLL_MEMORY_SECONDS)
        return left * 1000 + 1

    def _send_request(self) -> bool:
        """Send what the socket takes; True when everything is out (or nobody reads any more)."""
        try:
            while self._to_send:
                self._to_send = self._to_send[self._result.send(self._to_send, socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            return False
        except OSError:
            self._to_send = memoryview(b"")  # its end is seen where the result is read
        return True

    def _hear(self) -> _End | None:
        """What the zygote says of this run, and whether that ends it. Raises OSError if the zygote is gone."""
        self._note()
        if self._exited is None:
            return None
        return _refused(self._exited) if self._exited["op"] == "refused" else self._take() or self._gone()

    def _note(self) -> None:
        """Take one message of the zygote; the late news of earlier runs are dropped. Raises OSError."""
        try:
            got = self._channel.receive(1)
        except BlockingIOError:
            return
        except wire.WireError as error:
            raise OSError(f"the zygote does not keep to the wire: {error}") from error
        if got is None:
            raise OSError("the zygote closed its channel")
        message, fds = got
        if message.get("id") == self._id and message["op"] == "forked" and fds and self._pidfd < 0:
            self._take_process(fds[0])
            return
        wire.close(fds)
        if message.get("id") == self._id and message["op"] in ("refused", "exited"):
            self._exited = message

    def _take_process(self, pidfd: int) -> None:
        pid = _pid_of(pidfd)
        if pid is None:
            os.close(pidfd)
            raise OSError("the zygote sent a descriptor that is no process of its sandbox")
        self._pidfd = pidfd
        self._forked = time.monotonic()
        self._pid = pid

    def _take(self) -> _End | None:
        """Read of the result what is there."""
        try:
            while data := self._result.recv(_CHUNK * 4):
                self._received += data
                if self._complete():
                    return _End(None)
                if self._length() > self._most + ENVELOPE_BYTES:
                    return _End("limit", too_large(self._most))
        except BlockingIOError:
            return None
        except OSError:
            pass
        return self._gone()

    def _length(self) -> int:
        """What the frame's header says; 0 before it is there."""
        if len(self._received) < wire.HEADER:
            return 0
        return int.from_bytes(self._received[: wire.HEADER], "big")

    def _complete(self) -> bool:
        return len(self._received) >= wire.HEADER and len(self._received) - wire.HEADER >= self._length() > 0

    # ------------------------------------------------------------ ends

    def _gone(self) -> _End:
        """The child closed its channel without a result: dead, or about to be."""
        self._ended = time.monotonic()
        self._await(lambda: self._exited is not None, GONE_SECONDS)
        if self._exited is None:
            return _End("error", Error(type="NoResult", message="the process closed its channel without a result"))
        if self._exited["op"] == "refused":
            return _refused(self._exited)
        if self._slot is not None and self._slot.oom_kills():
            return self._oom()
        return _died(self._exited.get("status"))

    def _await(self, until: Callable[[], bool], seconds: float) -> None:
        """Listen to the zygote only. Raises OSError if it is gone."""
        end = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        while not until() and (left := end - time.monotonic()) > 0:
            if poll.poll(left * 1000 + 1):
                self._note()

    def _too_much_memory(self) -> bool:
        """Look at it from outside, where no cgroup counts it. Raises OSError if it cannot be looked at."""
        if self._watch is None:
            try:
                # The run's filter has taken larger buffers from it; the runtime `process` promises no walls.
                self._watch = MemoryWatch(self._pid, fixed_buffers=True) if self._pid > 0 else None
            except ProcessLookupError:
                return False
        if self._watch is None:
            return False
        return self._watch.charged_mb(self._limits.memory) > self._limits.memory

    def _oom(self) -> _End:
        text = f"it took more memory than its limit of {self._limits.memory} MB"
        if self._watch is not None:
            text += f" ({self._watch.last})"
        return _End("oom", Error(type="OutOfMemory", message=text))

    def outcome(self, end: _End) -> Outcome:
        """Everything known of the run, now that it was sent SIGKILL."""
        result = self._parsed() if end.reason is None else Result(reason=end.reason, error=end.error)
        if result.reason == "error" and self._slot is not None and self._slot.oom_kills():
            result = Result(reason="oom", error=self._oom().error)
        self._log.drain()
        log, cut = self._log.text()
        failed: Literal["Failure", "Cancelled"] = "Cancelled" if end.reason == "cancelled" else "Failure"
        memory, cpu = self._usage(result)
        return Outcome(
            status="Success" if result.reason is None else failed,
            reason=result.reason,
            output=result.output,
            error=result.error,
            log=log,
            logs_truncated=cut,
            start_ms=_milliseconds(self._asked, self._forked),
            run_ms=_milliseconds(min(self._forked or self._asked, self._ended or self._asked), self._ended),
            max_memory_mb=memory,
            cpu_ms=cpu,
            stuck=self._channel.overdue(),
        )

    def _parsed(self) -> Result:
        try:
            return parse(bytes(self._received[wire.HEADER : wire.HEADER + self._length()]), self._most)
        except Malformed as error:
            return Result(reason="unserialisable", error=Error(type="Unserialisable", message=str(error)))

    def _usage(self, result: Result) -> tuple[float | None, float | None]:
        """Peak memory and processor time: as the kernel counted, as was seen from here, as the process said itself."""
        if self._slot is not None:
            return self._slot.peak_mb(), self._slot.cpu_ms()
        said = self._exited or {}
        memory = max(
            (self._watch.peak_mb() if self._watch else 0.0), result.max_memory_mb or number(said.get("max_memory_mb"))
        )
        cpu = max((self._watch.cpu_ms() if self._watch else 0.0), result.cpu_ms or number(said.get("cpu_ms")))
        return memory, cpu


def _refused(message: dict[str, Any]) -> _End:
    return _End("refused", Error(type="Refused", message=str(message.get("message"))[:1000]))


def _died(status: Any) -> _End:
    """The end of a process that left no result, from its wait status."""
    if not isinstance(status, int):
        return _End("error", Error(type="NoResult", message="the process ended without a result"))
    if os.WIFSIGNALED(status):
        text = f"the process died of {signal_name(os.WTERMSIG(status))}"
        return _End("signal", Error(type="Signal", message=text))
    code = os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else status
    return _End("error", Error(type="NoResult", message=f"the process left without a result, with exit status {code}"))


def signal_name(number: int) -> str:
    """ "SIGSEGV", or the number of a signal without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _milliseconds(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else (end - start) * 1000


def _pid_of(pidfd: int) -> int | None:
    """The process of a pidfd that a zygote sent, -1 if it is dead already, None if it cannot be one of its runs.

    A run is in a deeper pid namespace than we are. Without isolation it is not: then it is 0, nobody to look at from
    outside, as long as it is not we ourselves who are about to be killed.
    """
    fields = dict(line.split(":\t", 1) for line in _text_of(f"/proc/self/fdinfo/{pidfd}") if ":\t" in line)
    try:
        pid, nested = int(fields["Pid"]), fields.get("NSpid", "").split()
    except (KeyError, ValueError):
        return None
    if pid == -1 or len(nested) > _own_depth():
        return pid
    return 0 if pid > 1 and pid not in (os.getpid(), os.getppid()) else None


@functools.cache
def _own_depth() -> int:
    """How many pid namespaces this process is in."""
    return next(len(line.split()) - 1 for line in _text_of("/proc/self/status") if line.startswith("NSpid:"))


def _text_of(path: str) -> list[str]:
    with open(path) as file:
        return file.read().splitlines()
