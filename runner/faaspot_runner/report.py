"""What a worker tells of its runs: the end, once delivered for certain, and the log while it grows."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import redis

from faaspot_runner.contract import (
    LEASE_DONE,
    LEASE_DONE_SECONDS,
    LOG_CUT_MARK,
    MAX_LOG_BYTES,
    REPLY_SECONDS,
    REPORTS,
    RunEnded,
    dump,
    lease_key,
    log_key,
    reply_key,
)
from faaspot_runner.contract.scripts import END, LEAVE, digest
from faaspot_runner.lease import Lease, Place, job_key
from faaspot_runner.line import Lines, Script

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
LIVE_AFTER = 0.2
"""Runs shorter than this have no live log: their whole log is in `RunEnded` before anybody could follow it."""
LIVE_EVERY = 0.1
LIVE_SECONDS = 3600
LIVE_ENTRIES = 4096
"""About how many batches of a live log are kept."""


class Reporter:
    """Delivers the ends of one worker's runs.

    A thread that reports waits until Redis has taken the end, so at most as many ends are kept as runs fit into the
    worker, and no new wake-up is taken meanwhile.
    """

    def __init__(self, client: redis.Redis, place: Place, wait: Callable[[float], bool]) -> None:
        """`wait` sleeps that many seconds and tells whether to give up, as the worker is at the end of its grace."""
        self._redis = client
        self._place = place
        self._wait = wait
        self._end = Script(Lines(client), END)

    def ended(self, lease: Lease, event: RunEnded, *, reply: bool, live: bool, busy: bool) -> bool:
        """Deliver the end; True when Redis has it. `busy`: other runs of this worker go on; `live`: it has a live log.

        Delivered twice when an answer was lost: the recorder takes an end once.
        """
        return self._deliver(lambda: self._send(lease, event, reply, live, busy), lease.job)

    def dropped(self, lease: Lease, *, busy: bool) -> bool:
        """Leave without an end, and give the lease back unless it is another's by now: the reconciler decides."""
        return self._deliver(lambda: self._left(lease, busy), lease.job)

    def _deliver(self, send: Callable[[], None], job: str) -> bool:
        pause = FIRST_PAUSE
        while True:
            try:
                send()
                return True
            except redis.RedisError as error:
                log.warning("the end of %s could not be delivered, trying again: %s", job, error)
            if self._wait(pause):
                log.error("the end of %s was not delivered: this worker had to stop and Redis was away", job)
                return False
            pause = min(pause * 2, LONGEST_PAUSE)

    def _send(self, lease: Lease, event: RunEnded, reply: bool, live: bool, busy: bool) -> None:
        self._end(
            keys=[
                reply_key(event.execution_id),
                lease_key(event.execution_id, event.attempt),
                log_key(event.execution_id),
                self._place.started,
                job_key(lease.job),
                self._place.worker_key,
            ],
            args=[
                dump(event),
                REPLY_SECONDS if reply else "",
                LEASE_DONE,
                LEASE_DONE_SECONDS,
                LEASE_DONE_SECONDS if live else "",
                lease.member,
                "busy" if busy else "",
                "successful_job_count" if event.status == "Success" else "failed_job_count",
                round(time.monotonic() - lease.taken, 6),
                REPORTS,
            ],
        )

    def _left(self, lease: Lease, busy: bool) -> None:
        try:
            self._leave(lease, busy)
        except redis.exceptions.NoScriptError:
            self._redis.script_load(LEAVE)
            self._leave(lease, busy)

    def _leave(self, lease: Lease, busy: bool) -> None:
        with self._redis.pipeline() as pipe:
            keys = [lease_key(lease.request.execution_id, lease.request.attempt), job_key(lease.job)]
            pipe.evalsha(digest(LEAVE), 3, *keys, self._place.started, lease.value, lease.member)
            self._idle(pipe, busy)
            pipe.execute()

    def _idle(self, pipe: redis.client.Pipeline, busy: bool) -> None:
        if not busy:
            pipe.hset(self._place.worker_key, "state", "idle")
            pipe.hdel(self._place.worker_key, "current_job")


class LiveLog:
    """The log of one run in flight, on its way to those who follow it. `write` never blocks and never raises."""

    def __init__(self, execution_id: str, wake: Callable[[LiveLog], None]) -> None:
        self.execution_id = execution_id
        self.sent = False
        self._wake = wake
        self._born = time.monotonic()
        self._lock = threading.Lock()
        self._parts: list[bytes] = []
        self._room = MAX_LOG_BYTES

    def write(self, data: bytes) -> None:
        """Add to the log; beyond the limit of a log nothing is followed any more."""
        with self._lock:
            first = not self._parts
            data = data[: self._room]
            if not data:
                return
            self._room -= len(data)
            self._parts.append(data)
        if first:
            self._wake(self)

    @property
    def due(self) -> float:
        """The monotonic time from which on it may be sent."""
        return self._born + LIVE_AFTER

    def take(self) -> bytes:
        """What was written since the last time."""
        with self._lock:
            data = b"".join(self._parts)
            self._parts.clear()
            self.sent = self.sent or bool(data)
            return data

    def close(self) -> bool:
        """Drop what was not sent; the whole log travels in `RunEnded`. True if anything was sent before."""
        with self._lock:
            self._parts.clear()
            self._room = 0
        return self.sent


class LiveLogs:
    """Sends the live logs of one worker in batches, from a thread of its own."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._change = threading.Condition()
        self._waiting: deque[LiveLog] = deque()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="live logs", daemon=True)
        self._thread.start()

    def open(self, execution_id: str) -> LiveLog:
        return LiveLog(execution_id, self._enter)

    def close(self) -> None:
        """Stop; what was not sent is dropped."""
        with self._change:
            self._stopped = True
            self._change.notify()
        self._thread.join()

    def _enter(self, live: LiveLog) -> None:
        with self._change:
            self._waiting.append(live)
            self._change.notify()

    def _work(self) -> None:
        while True:
            with self._change:
                while not self._waiting and not self._stopped:
                    self._change.wait()
                # Gathers for a moment, so that a chatty run costs one batch every LIVE_EVERY, not one for each line.
                self._change.wait_for(lambda: self._stopped, LIVE_EVERY)
                if self._stopped:
                    return
                batch = tuple(self._waiting)
                self._waiting.clear()
            now = time.monotonic()
            due = [live for live in batch if live.due <= now]
            with self._change:
                self._waiting.extend(live for live in batch if live.due > now)
            self._send(due)

    def _send(self, batch: list[LiveLog]) -> None:
        taken = [(live, data) for live in batch if (data := live.take())]
        if not taken:
            return
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                for live, data in taken:
                    key = log_key(live.execution_id)
                    pipe.xadd(key, {"text": data}, maxlen=LIVE_ENTRIES, approximate=True)
                    pipe.expire(key, LIVE_SECONDS)
                pipe.execute()
        except redis.RedisError as error:
            log.warning("a part of %d live logs was not sent: %s", len(taken), error)


class BuildLog:
    """The lines of a build, kept up to the limit of a log and followed live."""

    def __init__(self, live: LiveLog) -> None:
        self._live = live
        self._kept: list[bytes] = []
        self._room = MAX_LOG_BYTES
        self.dropped = 0

    def line(self, text: str) -> None:
        data = (text + "\n").encode("utf-8", "replace")
        kept, rest = data[: self._room], data[self._room :]
        self._room -= len(kept)
        self.dropped += len(rest)
        if kept:
            self._kept.append(kept)
            self._live.write(kept)

    @property
    def text(self) -> str:
        text = b"".join(self._kept).decode("utf-8", "ignore")
        return text + LOG_CUT_MARK.format(dropped=self.dropped) if self.dropped else text
