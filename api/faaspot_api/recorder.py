"""The recorder process: what spots report becomes records; what was lost is found again.

One thread reads the reports stream in batches and hands them to the recorder service; only when its transaction is
committed is an event taken out of the stream, so a recorder that is killed leaves its batch to the next one. Beside it
threads make the reconciler's passes, tell of ends, and see to the turns. All live through absences of Redis and of the
database.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from faaspot_api import log
from faaspot_api.errors import Unavailable
from faaspot_api.keys import KeyMissingError
from faaspot_api.migrate import CANNOT_WORK, migrate
from faaspot_api.queue.base import Queue
from faaspot_api.queue.rq import RedisQueue
from faaspot_api.queue.stream import Event, Report, ReportStream
from faaspot_api.services import Services, courier
from faaspot_api.settings import Settings
from faaspot_runner.contract.bucket import BucketError
from faaspot_runner.contract.failpoints import arm, reach

BATCH = 256
BATCH_BYTES = 16 * 1024 * 1024
"""What a batch should stay below: the next one's length goes by the size of the last one's events."""
GATHER_SECONDS = 0.005
"""How long more events are waited for once one has come: a short run's start and end are one write then, not two."""
LONGEST_GATHER = 0.04
"""The same where nothing was left to write lately, because sync callers had recorded all ends themselves."""
WAIT_SECONDS = 0.5
"""Of one read; as long as a signal may go unnoticed."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
TRIES = 5
"""Failures that are nobody's absence after which an event is moved aside."""
CALLBACK_SECONDS = 0.5
"""Pause between two looks for ends to tell of, where there are any to wait for."""
BEAT_SECONDS = 2.0
LATE_SECONDS = 120.0
"""A pass of the reconciler that takes longer is a hang; one over very many records may take its time."""
TEND_SECONDS = 1.0
"""How often it is looked how many turns there are, and which were lost."""
DRAIN_SECONDS = 8.0
"""How long a stopping recorder goes on applying what still comes in."""

Apply = Callable[[Sequence[Event]], int]
"""Takes events into the records; how many were not on record before."""
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Recorder:
    """Applies the stream's events until `stop` is set and the stream is empty."""

    stream: ReportStream
    apply: Apply
    stop: threading.Event
    tell: Callable[[], None] = lambda: None
    """Called between batches, so that silence means that this thread does not go on."""
    _count: int = BATCH
    _gather: float = GATHER_SECONDS
    _failures: dict[str, int] = field(default_factory=dict)

    def run(self) -> None:
        """Returns when stopped. Nothing of what it meets ends it earlier."""
        pause = FIRST_PAUSE
        while not self.stop.is_set():
            self.tell()
            if self._step(WAIT_SECONDS) is not None:
                pause = FIRST_PAUSE
            else:
                self.stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._step(0.001) and time.monotonic() < deadline:
            pass

    def _step(self, seconds: float) -> int | None:
        """One batch; how many events it had, None if it could not be dealt with now."""
        try:
            reports = self.stream.read(self._count, seconds)
            if reports:
                self._take(self._gathered(reports))
        except Unavailable as error:
            _log.warning("events wait", reason=error.message)
        except Exception:  # noqa: BLE001 (the process's outer loop: it logs and goes on)
            _log.exception("events wait: a defect")
        else:
            return len(reports)
        self.stream.read_again()
        return None

    def _gathered(self, reports: list[Report]) -> list[Report]:
        """With what comes in the next moment, unless the batch is full."""
        if len(reports) < self._count:
            self.stop.wait(self._gather)
            reports = [*reports, *self.stream.more(self._count - len(reports))]
        return reports

    def _take(self, reports: Sequence[Report]) -> None:
        self._count = _next_count(reports)
        for report in reports:
            if report.event is None:
                self._bury(report, report.problem)
        good = [report for report in reports if report.event is not None]
        try:
            self._apply(good)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 (tried again one by one, then by the outer loop)
            # One event spoils the batch: find it, so that the others go through.
            _log.warning("a batch could not be applied, now one by one", error=repr(error))
            for report in good:
                self._apply_one(report)

    def _apply(self, reports: Sequence[Report]) -> None:
        if reports:
            new = self.apply([report.event for report in reports if report.event is not None])
            self._gather = GATHER_SECONDS if new else min(2 * self._gather, LONGEST_GATHER)
            reach("before_acknowledge")
            self.stream.acknowledge(reports)

    def _apply_one(self, report: Report) -> None:
        try:
            self._apply([report])
        except Unavailable:
            raise
        except Exception as error:
            failures = self._failures.get(report.id, 0) + 1
            self._failures[report.id] = failures
            if failures < TRIES:
                raise
            self._bury(report, repr(error))

    def _bury(self, report: Report, reason: str) -> None:
        _log.error("an event was moved aside", id=report.id, reason=reason)
        self.stream.bury(report, reason)
        self._failures.pop(report.id, None)


def record(settings: Settings, ready: int | None = None) -> int:
    """Record and reconcile until SIGTERM or SIGINT; the exit status (see `migrate`).

    `ready`: a descriptor for a byte when it has told of itself for the first time.
    """
    log.configure(settings.log_level, "recorder")
    arm(settings.failpoints)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if status := migrate(settings):
        return status
    try:
        queue = RedisQueue.open(settings)
        services = Services.open(settings, queue)
    except (KeyMissingError, BucketError) as error:
        sys.stderr.write(f"{error}\n")
        return CANNOT_WORK

    def make_pass() -> None:
        services.reconciler.pass_(time.monotonic())

    pulse = Pulse(services.health.beat, ready)
    ushering = threading.Thread(target=usher, args=(queue, stop), name="usher", daemon=True)
    ushering.start()
    beside = threading.Thread(
        target=reconcile, args=(make_pass, settings.reconcile_seconds, stop, pulse), name="reconciler", daemon=True
    )
    beside.start()
    telling = threading.Thread(
        target=courier.run, args=(services.courier, stop, CALLBACK_SECONDS), name="courier", daemon=True
    )
    telling.start()
    Recorder(ReportStream.open(settings), services.recorder.apply_reported, stop, pulse.tell).run()
    beside.join(DRAIN_SECONDS)
    return 0


class Pulse:
    """Tells every `BEAT_SECONDS` that the recorder lives, and what keeps it or the reconciler from their work."""

    def __init__(self, beat: Callable[[str], None], ready: int | None = None) -> None:
        """`ready`: a descriptor for a byte after the first beat."""
        self._beat = beat
        self._ready = ready
        self._next = 0.0
        self._passed = time.monotonic()
        self.problem = ""
        """Why the last pass of the reconciler failed."""

    def passed(self) -> None:
        """A pass of the reconciler went well."""
        self._passed, self.problem = time.monotonic(), ""

    def tell(self) -> None:
        """Beat if it is time. What fails is the queue's part and known by it."""
        at = time.monotonic()
        if at < self._next:
            return
        self._next = at + BEAT_SECONDS
        late = at - self._passed > LATE_SECONDS
        try:
            self._beat(self.problem or ("The reconciler hangs." if late else ""))
            self._tell_first()
        except Unavailable as error:
            _log.warning("the recorder's sign of life did not arrive", reason=error.message)

    def _tell_first(self) -> None:
        if self._ready is not None:
            os.write(self._ready, b"1")
            os.close(self._ready)
            self._ready = None


def reconcile(make_pass: Callable[[], object], seconds: float, stop: threading.Event, pulse: Pulse) -> None:
    """Make a pass at once and then one every `seconds`, until `stop` is set."""
    while True:
        try:
            make_pass()
            pulse.passed()
        except Unavailable as error:
            pulse.problem = error.message
            _log.warning("reconciling waits", reason=error.message)
        except Exception as error:  # noqa: BLE001 (the thread's outer loop: it logs and goes on)
            pulse.problem = f"The reconciler has a defect ({type(error).__name__}); the recorder's log says more."
            _log.exception("reconciling waits: a defect")
        if stop.wait(seconds):
            return


def usher(queue: Queue, stop: threading.Event) -> None:
    """See to it that everybody has their turn, until `stop` is set."""
    due = 0.0
    while not stop.is_set():
        try:
            if time.monotonic() >= due:
                due = time.monotonic() + TEND_SECONDS
                if lost := queue.tend():
                    _log.warning("turns_lost", count=lost)
            queue.settle(max(0.001, due - time.monotonic()))
        except Unavailable as error:
            _log.warning("turns wait", reason=error.message)
            stop.wait(TEND_SECONDS)
        except Exception:  # noqa: BLE001 (the thread's outer loop: it logs and goes on)
            _log.exception("turns wait: a defect")
            stop.wait(TEND_SECONDS)


def _next_count(reports: Sequence[Report]) -> int:
    """How many events the next batch may have, so that its size stays bounded when results are large."""
    average = sum(len(report.text) for report in reports) / len(reports)
    return max(1, min(BATCH, int(BATCH_BYTES / max(1.0, average))))
