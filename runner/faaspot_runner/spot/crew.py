"""The worker processes of a spot: started, restarted when they die, told what they must know, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

from faaspot_runner.lease import HOLD_SECONDS
from faaspot_runner.spot.line import Line

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
STEADY_SECONDS = 30.0
"""A worker that lived this long did not fail at its start: the next one comes without a pause."""
SILENT_SECONDS = HOLD_SECONDS
"""A worker that said nothing for this long is frozen: it neither renews its leases nor kills its runs for that."""
LOOK_SECONDS, STALL_SECONDS = 1.0, 3.0
"""How often that is looked at; a look that comes later than this says that the spot itself stood still."""
KILL_SECONDS = 5.0
"""How long a worker that was told to hurry may take before it is killed."""


class Slot:
    """A place for one worker after the other, until it is retired."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.retired = False
        self.member: Member | None = None

    def retire(self) -> None:
        """Nobody comes after the present one, which takes nothing more and ends with its last run."""
        self.retired = True
        if self.member is not None and self.member.process.returncode is None:
            self.member.process.terminate()


class Member:
    """One worker process. `sandboxes`: those alive that it has channels to; `running`: its executions in flight.

    `heard`: when it last said something (monotonic), None before it first did.
    """

    def __init__(self, name: str, queue: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.queue = queue
        self.process = process
        self.line: Line
        self.sandboxes: set[str] = set()
        self.running = 0
        self.heard: float | None = None
        self.asking: set[asyncio.Task[None]] = set()

    def ask(self, work: Awaitable[None]) -> None:
        """Do something for this worker; given up when it dies."""
        task = asyncio.ensure_future(work)
        self.asking.add(task)
        task.add_done_callback(self.asking.discard)


Hear = Callable[[Member, dict[str, Any]], None]
Bury = Callable[[Member], Awaitable[None]]


class Crew:
    """All workers of a spot. `hear` gets their messages, `bury` cleans up after one that died."""

    def __init__(self, name: str, arguments: Sequence[str], welcome: dict[str, Any], hear: Hear, bury: Bury) -> None:
        self._name = name
        self._arguments = arguments
        self._welcome = welcome
        self._hear = hear
        self._bury = bury
        self._members: set[Member] = set()
        self._keeping: set[asyncio.Task[None]] = set()
        self._slots: dict[str, list[Slot]] = {}
        self._paused = False
        self._watching: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def running(self) -> int:
        return sum(member.running for member in self._members)

    def running_of(self, queue: str) -> int:
        """Executions in flight that came from this queue."""
        return sum(member.running for member in self._members if member.queue == queue)

    def wanted(self, queue: str) -> int:
        """How many workers this queue shall have."""
        return len(self._slots.get(queue, ()))

    def counts(self) -> dict[str, int]:
        """Living workers by queue."""
        counts: dict[str, int] = {}
        for member in self._members:
            counts[member.queue] = counts.get(member.queue, 0) + 1
        return counts

    def start(self, wanted: dict[str, int]) -> None:
        """Keep that many workers of each queue running."""
        self._watching = asyncio.create_task(self._watch(), name="silent workers")
        for queue, count in wanted.items():
            self.scale(queue, count)

    def scale(self, queue: str, count: int) -> None:
        """Keep that many from now on. Who goes takes nothing more, and ends with its last run."""
        slots = self._slots.setdefault(queue, [])
        while len(slots) > count:
            slots.pop().retire()
        while len(slots) < count and not self._stopping:
            slots.append(slot := Slot(len(slots) + 1))
            task = asyncio.create_task(self._keep(queue, slot), name=f"worker {queue} {slot.number}")
            self._keeping.add(task)
            task.add_done_callback(self._keeping.discard)

    def pause(self, paused: bool) -> None:
        """Have every worker take nothing new, or take again."""
        self._paused = paused
        self.tell({"op": "pause", "paused": paused})

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message to every worker."""
        for member in tuple(self._members):
            member.line.send(message)

    def forget(self, sandbox: str) -> None:
        """A sandbox is gone: tell every worker, and keep no account of who had it."""
        for member in self._members:
            member.sandboxes.discard(sandbox)
        self.tell({"op": "gone", "sandbox": sandbox})

    async def stop(self, grace: float, hasten: asyncio.Event) -> None:
        """Have all stop taking, wait up to `grace` for what runs (not at all once `hasten` is set), then end them."""
        self._stopping = True
        self._signal(signal.SIGTERM)
        waiter: asyncio.Future[Any] = asyncio.create_task(hasten.wait())
        ended: asyncio.Future[Any] = asyncio.gather(*self._keeping)
        await asyncio.wait((waiter, ended), timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if not ended.done():
            log.warning("%d executions still run after the grace, they are stopped", self.running)
            self.tell({"op": "hurry"})
            await asyncio.wait([ended], timeout=KILL_SECONDS)
        self._signal(signal.SIGKILL)
        await ended
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        """Kill workers that are silent, for ever: their runs die with them before another attempt may start."""
        looked = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            last, looked = looked, time.monotonic()
            stalled = looked - last > STALL_SECONDS  # what they said meanwhile is yet to be read
            for member in self._members:
                if member.heard is None or member.process.returncode is not None:
                    continue
                if stalled:
                    member.heard = looked
                elif looked - member.heard > SILENT_SECONDS:
                    log.error("the worker %s has been silent for %.0f s and is killed", member.name, SILENT_SECONDS)
                    member.process.kill()
                    member.heard = None

    def _heard(self, member: Member, message: dict[str, Any]) -> None:
        member.heard = time.monotonic()
        self._hear(member, message)

    def _signal(self, number: signal.Signals) -> None:
        for member in self._members:
            if member.process.returncode is None:
                member.process.send_signal(number)

    # ------------------------------------------------------------ one worker

    async def _keep(self, queue: str, slot: Slot) -> None:
        pause = FIRST_PAUSE
        while not self._stopping and not slot.retired:
            born = time.monotonic()
            try:
                code = str(await self._live(f"{self._name}.{queue}.{slot.number}.{uuid4().hex[:8]}", queue, slot))
            except OSError as error:
                code = f"no process: {error}"  # too many of them, or of descriptors, for the moment
            if self._stopping or slot.retired:
                return
            pause = FIRST_PAUSE if time.monotonic() - born > STEADY_SECONDS else min(pause * 2, LONGEST_PAUSE)
            log.error("a %s worker ended with %s, another one starts in %.1f s", queue, code, pause)
            await asyncio.sleep(pause)

    async def _live(self, name: str, queue: str, slot: Slot) -> int:
        """One worker's life, from its start until all that it left is cleaned up; how it ended."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, contextlib.ExitStack() as failing:
            failing.callback(ours.close)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "faaspot_runner.worker", "--name", name, "--queue", queue),
                *("--socket", str(theirs.fileno()), *self._arguments, "--parent-pid", str(os.getpid())),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C at the terminal is for the supervisor alone
            )
            failing.pop_all()
        member = Member(name, queue, process)
        member.line = Line(ours, lambda message: self._heard(member, message))
        self._members.add(member)
        slot.member = member
        member.line.send(self._welcome)
        if self._paused:
            member.line.send({"op": "pause", "paused": True})
        if self._stopping or slot.retired:
            process.terminate()
        try:
            return await process.wait()
        finally:
            self._members.discard(member)
            member.line.close()
            for task in member.asking:
                task.cancel()
            await self._bury(member)
