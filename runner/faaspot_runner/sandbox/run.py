"""One execution in a sandbox, driven from a worker's thread: ask the zygote, feed the child, watch, kill, tell.

What comes from inside is untrusted: every read is bounded, the first result wins, the process is sent SIGKILL before
`run_once` returns, whatever happened.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import IO, Literal

from faaspot_runner.agent import wire
from faaspot_runner.contract import MAX_LOG_BYTES, MAX_RESULT_BYTES, Error, Limits
from faaspot_runner.sandbox.cgroup_tree import RunSlot
from faaspot_runner.sandbox.channel import DEATH_SECONDS, Channel
from faaspot_runner.sandbox.end import End, broken, died, lost, malformed, refused
from faaspot_runner.sandbox.kept import LIVES, Kept, unread
from faaspot_runner.sandbox.log import RunLog
from faaspot_runner.sandbox.memory import MemoryWatch
from faaspot_runner.sandbox.messages import Broken, Exited, Forked, Refused, of_run
from faaspot_runner.sandbox.outcome import Outcome
from faaspot_runner.sandbox.outgoing import Outgoing
from faaspot_runner.sandbox.pidfd import pid_of
from faaspot_runner.sandbox.result import Frame, Malformed, Open, Result

POLL_MEMORY_SECONDS = 0.025
FORK_SECONDS = 10.0
"""How long a zygote may take to say that it has forked; one that was stopped or is caught in a loop never says it."""
RESERVE_SECONDS = 1.0
GONE_SECONDS = 0.25
"""How long a run that closed its channel may take to be reported dead before it is killed."""
_CHUNK = 256 * 1024
"""What is read of a result at most before the clock is looked at again."""


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
    keep: bool = False,
    kept: Kept | None = None,
    spool: Open | None = None,
    args: IO[bytes] | None = None,
) -> Outcome:
    """Run `main` once and return how it ended; blocks, at most until shortly after `deadline` (`time.monotonic`).

    `request`: from `request_frame`. `slot`: the run's cgroup, None in the rlimit grade (the memory is then watched from
    here). `cancelled`: a descriptor (eventfd) whose readability cancels the run. `on_log`: gets each piece of the log
    as it comes, as long as it is kept. When the outcome is reported, call `channel.settle()`, then release the slot.
    `keep`: if it ends well its process is not killed but in `Outcome.kept`, with the slot; `kept`: such a one, which
    runs this. `spool`: opens a file for an output that is too long for a record; without it there is none. `args`: a
    file with those that the request only announces. Raises nothing that a run can cause.
    """
    log = RunLog(log_limit, on_log, read_end=kept.log if kept else None)
    run = Run(channel, Outgoing(request, args), id, limits, slot, log, Frame(result_limit, spool), kept)
    with contextlib.closing(run):
        stays = False
        try:
            run.start()
            end = run.watch(deadline, cancelled)
            stays = keep and run.stays(end)
        except OSError as error:
            end = lost(f"the sandbox is gone: {error}")
        except Broken as error:
            end = broken(error)
        finally:
            if not stays:
                run.kill()
        return run.outcome(run.judged(end))


class Run:
    """One run in flight: its result channel, its log, its process."""

    def __init__(
        self,
        channel: Channel,
        request: Outgoing,
        name: str,
        limits: Limits,
        slot: RunSlot | None,
        log: RunLog,
        frame: Frame,
        kept: Kept | None,
    ) -> None:
        self._channel = channel
        self._id = kept.name if kept else name
        self._kept = kept
        self.waits = False
        self._cpu_before = kept.cpu_ms if kept else 0.0
        self._limits = limits
        self._slot = slot
        self._log = log
        self._to_send = request
        self._frame = frame
        self._result_theirs: socket.socket | None = None
        if kept is not None:
            self._result = kept.result
        else:
            self._result, self._result_theirs = socket.socketpair()
        self._result.setblocking(False)
        self._pid, self._pidfd = (kept.pid, kept.pidfd) if kept else (-1, -1)
        self._said: Exited | Refused | None = None
        self._watch: MemoryWatch | None = None
        self._asked = time.monotonic()
        self._look_at = self._asked + (0.0 if kept and kept.served else POLL_MEMORY_SECONDS)
        self._forked = self._asked if kept else None
        self._parsed_result: Result | None = None
        self._malformed = False
        self._ended: float | None = None
        self._killed = False
        self._zygote_gone = False

    # ------------------------------------------------------------ the way of a run

    def start(self) -> None:
        """Ask for a child and write the request, which it finds as soon as it looks. Raises OSError."""
        if self._result_theirs is not None:
            fds = [self._result_theirs.fileno(), self._log.write_end, *(self._slot.files if self._slot else ())]
            self._channel.send({"op": "run", "id": self._id}, fds)
            self._close_theirs()
        self._to_send.send(self._result)

    def watch(self, deadline: float, cancelled: int | None) -> End:
        """Until there is a result, or a reason to end without one.

        Raises OSError if the zygote's channel fails, Broken if the zygote does not keep to its wire. No pass does more
        than a bounded piece of work, and every pass looks at the clock: a run that never stops writing gains nothing.
        """
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
                return End("timeout", Error(type="Timeout", message=f"it ran longer than {self._limits.timeout:g} s"))
            if time.monotonic() > self._asked + FORK_SECONDS and self._untaken():
                self._forked = None
                return lost("the sandbox does not answer")
            events = dict(poll.poll(self._pause(left)))
            if events.get(result, 0) & select.POLLOUT and self._to_send.send(self._result):
                poll.modify(result, select.POLLIN)
            if events.get(log) and not self._log.drain():
                poll.unregister(log)
            # The result first: a zygote that dies right after it has not lost the run.
            if events.get(result, 0) & ~select.POLLOUT and (end := self._take()):
                return end
            if events.get(zygote) and (end := self._hear()):
                return end
            if cancelled is not None and events.get(cancelled):
                return End("cancelled", Error(type="Cancelled", message="it was cancelled"))
            if self._slot is None and self._too_much_memory():
                return self._oom()

    def kill(self) -> None:
        """SIGKILL to the init of the run's pid namespace. Without a pidfd wait for it a moment: it is on its way."""
        self._ended = self._ended or time.monotonic()
        self._close_theirs()
        if not self._named:
            try:
                self._await(lambda: self._named, DEATH_SECONDS)
            except OSError:
                self._zygote_gone = True
            except Broken:
                pass  # `judged` says so
        if self._watch is not None:
            self._watch.cpu_ms()
        if self._pidfd >= 0 and not self._killed:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def stays(self, end: End) -> bool:
        """Whether the process can run something else: it answered in good order, and is the one that was named."""
        if end.reason is not None or self._pidfd < 0 or self._to_send or not self._frame.exact():
            return False
        well = self._parsed().reason in (None, "error", "unserialisable") and not self._malformed
        if not well or (self._slot is not None and self._slot.oom_kills()):
            return False
        self._ended = time.monotonic()
        spent = self._cpu_before + (self._usage(self._parsed())[1] or 0.0)
        self.waits = spent < (LIVES - 1) * self._limits.timeout * (os.cpu_count() or 1) * 1000
        return self.waits

    def reserved(self) -> Kept | None:
        """The process, once the zygote has named it. Raises OSError, Broken."""
        self._await(lambda: self._named, RESERVE_SECONDS)
        self.waits = self._pidfd >= 0 and self._said is None
        return self._survivor(0.0, served=False)

    def judged(self, end: End) -> End:
        """The end once more, after the kill: without a process there was nothing to send SIGKILL to."""
        if end.reason == "lost" and self._kept is not None and unread(self._result):
            self._forked = None  # its process had not begun: another may
        if self._pidfd >= 0 or isinstance(self._said, Refused) or end.reason in ("lost", "broken"):
            return end
        if end.reason is None and not self._zygote_gone:
            return broken("a result came, but not a word of the process that it is of")
        return lost("the sandbox does not say which process it has forked")

    @property
    def _named(self) -> bool:
        """Whether the zygote told the run's process, or that it is dead, or never was."""
        return self._pidfd >= 0 or self._said is not None

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self._frame.close()
        if self.waits:
            self._log.close_sink()
            return
        self._result.close()
        self._log.close()
        if self._pidfd >= 0:
            self._channel.dying(self._pidfd)

    # ------------------------------------------------------------ events

    def _pause(self, left: float) -> float:
        """Milliseconds to wait at most."""
        if self._forked is None or (self._kept and time.monotonic() <= self._asked + FORK_SECONDS):
            left = min(left, FORK_SECONDS)
        if self._forked is not None and self._slot is None:
            left = min(left, max(0.0, self._look_at - time.monotonic()))
        return left * 1000 + 1

    def _close_theirs(self) -> None:
        """Close what is the process' own of the pair and the pipe."""
        if self._result_theirs is not None:
            self._result_theirs.close()
            self._log.close_write_end()

    def _untaken(self) -> bool:
        """Whether nobody has begun with the request: no process was named, or the one that waited reads nothing."""
        return self._forked is None or (self._kept is not None and not self._has_begun and unread(self._result))

    @property
    def _has_begun(self) -> bool:
        """Whether it has taken a part of large args: then what becomes of it is the end of the run."""
        return self._to_send.is_read(self._result)

    def _hear(self) -> End | None:
        """What the zygote says of this run, and whether that ends it. Raises OSError if the zygote is gone, Broken."""
        self._note()
        if self._said is None:
            return None
        return refused(self._said) if isinstance(self._said, Refused) else self._take_rest()

    def _note(self) -> None:
        """Take one message of the zygote; the late news of earlier runs are dropped. Raises OSError, Broken."""
        try:
            got = self._channel.receive(1)
        except BlockingIOError:
            return
        except wire.WireError as error:
            raise Broken(str(error)) from error
        if got is None:
            raise OSError("the zygote closed its channel")
        message, fds = got
        try:
            said = of_run(message)
            if said.id != self._id:
                return
            if isinstance(said, Forked):
                self._take_process(fds)
            else:
                self._said = said
        finally:
            wire.close(fds)

    def _take_process(self, fds: list[int]) -> None:
        """Take the pidfd out of what came, if it is one of a run. Raises Broken."""
        if not fds or self._pidfd >= 0:
            raise Broken("it tells of one process for each run")
        pid = pid_of(fds[0])
        if pid is None:
            raise Broken("it sent a descriptor that is no process of its sandbox")
        self._pidfd = fds.pop()
        self._forked = time.monotonic()
        self._look_at = self._forked + POLL_MEMORY_SECONDS
        self._pid = pid

    def _take(self) -> End | None:
        """Read one piece of the result. Raises OSError, Broken of the zygote."""
        try:
            data = self._result.recv(_CHUNK)
        except BlockingIOError:
            return None
        except ConnectionResetError:  # it died with its request unread
            if self._kept is not None and not self._has_begun:
                self._forked = None
                return lost("the process that waited for the run has died")
            data = b""
        except OSError:
            data = b""
        if not data:
            return self._gone()
        try:
            return End(None) if self._frame.add(data) else None
        except Malformed as error:
            return malformed(error)

    def _take_rest(self) -> End:
        """What a dead process has left in the channel; a frame's bounds are its bounds. Raises OSError, Broken."""
        poll = select.poll()
        poll.register(self._result.fileno(), select.POLLIN)
        while poll.poll(0):
            if end := self._take():
                return end
        return self._gone()

    # ------------------------------------------------------------ ends

    def _gone(self) -> End:
        """The child closed its channel without a result: dead, or about to be. Raises OSError, Broken."""
        self._ended = time.monotonic()
        self._await(lambda: self._said is not None, GONE_SECONDS)
        if self._said is None:
            return End("error", Error(type="NoResult", message="the process closed its channel without a result"))
        if isinstance(self._said, Refused):
            return refused(self._said)
        if self._slot is not None and self._slot.oom_kills():
            return self._oom()
        return died(self._said.status)

    def _await(self, until: Callable[[], bool], seconds: float) -> None:
        """Listen to the zygote only. Raises OSError if it is gone, Broken."""
        end = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        while not until() and (left := end - time.monotonic()) > 0:
            if poll.poll(left * 1000 + 1):
                self._note()

    def _too_much_memory(self) -> bool:
        """Look at it from outside, where no cgroup counts it, when it is time. Raises OSError if it cannot be."""
        if self._forked is None or time.monotonic() < self._look_at:
            return False
        try:
            return self._looked()
        finally:
            self._look_at = time.monotonic() + POLL_MEMORY_SECONDS

    def _looked(self) -> bool:
        if self._watch is None and self._pid > 0:
            # The run's filter has taken larger buffers from it; the runtime `process` promises no walls.
            with contextlib.suppress(ProcessLookupError):
                self._watch = MemoryWatch(self._pid, fixed_buffers=True)
        if self._watch is None:
            return False
        return self._watch.charged_mb(self._limits.memory) > self._limits.memory

    def _oom(self) -> End:
        text = f"it took more memory than its limit of {self._limits.memory} MB"
        if self._watch is not None:
            text += f" ({self._watch.last})"
        return End("oom", Error(type="OutOfMemory", message=text))

    def outcome(self, end: End) -> Outcome:
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
            large=result.large,
            error=result.error,
            log=log,
            logs_truncated=cut,
            start_ms=_milliseconds(self._asked, self._forked),
            run_ms=_milliseconds(min(self._forked or self._asked, self._ended or self._asked), self._ended),
            max_memory_mb=memory,
            cpu_ms=cpu,
            forked=self._forked,
            kept=self._survivor(cpu or 0.0),
            **self._told(result),
        )

    def _survivor(self, cpu_ms: float, *, served: bool = True) -> Kept | None:
        if not self.waits:
            return None
        return Kept(
            name=self._id,
            pid=self._pid,
            pidfd=self._pidfd,
            result=self._result,
            log=self._log.read_end,
            slot=self._slot,
            served=served,
            cpu_ms=self._cpu_before + cpu_ms,
        )

    def _told(self, result: Result) -> dict[str, float | None]:
        """When `main` was called and done, if what the process says of it can be."""
        likely = self._asked <= result.began <= result.finished <= time.monotonic()
        return {"began": result.began, "finished": result.finished} if likely else {}

    def _parsed(self) -> Result:
        if self._parsed_result is None:
            try:
                self._parsed_result = self._frame.result()
            except Malformed as error:
                self._malformed = True
                self._parsed_result = Result(reason="unserialisable", error=malformed(error).error)
        return self._parsed_result

    def _usage(self, result: Result) -> tuple[float | None, float | None]:
        """Peak memory and processor time: as the kernel counted, as was seen from here, as the process said itself."""
        if self._slot is not None:
            spent = self._slot.cpu_ms()
            return self._slot.peak_mb(), None if spent is None else spent - self._cpu_before
        said = self._said if isinstance(self._said, Exited) else None
        memory = result.max_memory_mb or (said.max_memory_mb if said else 0.0)
        cpu = result.cpu_ms or (said.cpu_ms if said else 0.0)
        if self._watch is not None:
            memory, cpu = max(self._watch.peak_mb(), memory), max(self._watch.cpu_ms() - self._cpu_before, cpu)
        return memory, cpu


def _milliseconds(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else (end - start) * 1000
