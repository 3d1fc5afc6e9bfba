"""What an operator should know of the running platform: each part looked at, and what to do where it is not well."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from faaspot_api.domain.model import Principal
from faaspot_api.errors import Unavailable
from faaspot_api.queue.base import Queue, SpotSeen
from faaspot_api.services import access
from faaspot_api.services.health import OK, HealthService
from faaspot_api.store import backlog
from faaspot_api.store.backlog import Backlog
from faaspot_api.store.blobs import Blobs
from faaspot_api.store.engine import Store
from faaspot_api.store.migrate import HEAD
from faaspot_api.store.moments import SECOND, now

Answer = Literal["ok", "weaker", "missing"]
"""As `fas doctor` says: fine; works, but could be better; runs or their records suffer."""

SLOW_MS = 200.0
LONG_SECONDS = 60.0
MANY_REPORTS = 5000
LITTLE_SPACE, NO_SPACE = 0.1, 0.02
"""Shares of the disk that are free."""
LITTLE_BYTES, NO_BYTES = 10 * 2**30, 200 * 2**20
"""A disk with more free than this is never short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at. `what_to_do`: empty when nothing is to be done."""

    section: str
    name: str
    answer: Answer
    text: str
    what_to_do: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What was found. `time`: epoch seconds by the server's clock."""

    version: str
    time: float
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is missing."""
        return all(check.answer != "missing" for check in self.checks)


class DoctorService:
    """Examines the platform for `fas doctor --server`."""

    def __init__(self, store: Store, blobs: Blobs, queue: Queue, health: HealthService) -> None:
        self._store = store
        self._blobs = blobs
        self._queue = queue
        self._health = health

    def examine(self, who: Principal) -> Examination:
        """Every check, for roles admin and monitor. A part that is away is a finding, never an error."""
        access.require_monitor(who)
        checks = (*self._parts(), *self._disk(), *self._spots(), *self._work())
        return Examination(version=version("faaspot"), time=time.time(), checks=checks)

    def _parts(self) -> Iterator[Check]:
        yield _timed("database", self._store.ping, f"{self._store.kind}, schema {HEAD}", "start it, or look at its log")
        yield _timed("queue", self._queue.ping, "Redis", "start Redis, or look at its log")
        yield _timed("blobs", self._blobs.check, str(self._blobs), "look at the directory, or at the bucket's store")
        state = self._health.ready()["recorder"]
        yield _part("recorder", state, "ends are recorded", "look at logs/recorder.log")

    def _disk(self) -> Iterator[Check]:
        free, whole = self._blobs.space()
        share, text = free / whole, f"{free / 2**30:.1f} of {whole / 2**30:.1f} GB are free"
        answer: Answer = "ok"
        if share < NO_SPACE and free < NO_BYTES:
            answer = "missing"
        elif share < LITTLE_SPACE and free < LITTLE_BYTES:
            answer = "weaker"
        to_do = "" if answer == "ok" else "free some space before writes are refused (storage_full)"
        yield Check(section="parts", name="disk", answer=answer, text=text, what_to_do=to_do)

    def _spots(self) -> Iterator[Check]:
        try:
            seen = self._queue.spots()
        except Unavailable:
            return
        if not any(spot.is_online for spot in seen):
            yield Check(
                section="spots", name="any", answer="missing", text="no spot is online: nothing runs",
                what_to_do="fas spots add, or start the spot and look at its log",
            )  # fmt: skip
        yield from map(_spot, seen)

    def _work(self) -> Iterator[Check]:
        try:
            with self._store.read() as transaction:
                found = backlog.standing(transaction)
            reports = self._queue.lengths()["reports"]
        except Unavailable:
            return
        yield _waiting([row for row in found if row.status == "Pending"])
        running = sum(row.open for row in found if row.status == "Started")
        yield Check(section="work", name="running", answer="ok", text=f"{running} executions")
        late = reports > MANY_REPORTS
        yield Check(
            section="work",
            name="reports",
            answer="weaker" if late else "ok",
            text=f"{reports} reports of spots are not recorded yet",
            what_to_do="the recorder cannot keep up: look at the database's load" if late else "",
        )


def _timed(name: str, look: Callable[[], None], what: str, to_do: str) -> Check:
    began = time.monotonic()
    try:
        look()
    except Unavailable as error:
        return _part(name, error.message, what, to_do)
    took = (time.monotonic() - began) * 1000
    text = f"{what}, answers in {took:.1f} ms"
    if took <= SLOW_MS:
        return Check(section="parts", name=name, answer="ok", text=text)
    return Check(
        section="parts", name=name, answer="weaker", text=text, what_to_do="look what else loads it or its machine"
    )


def _part(name: str, state: str, fine: str, to_do: str) -> Check:
    if state == OK:
        return Check(section="parts", name=name, answer="ok", text=fine)
    return Check(section="parts", name=name, answer="missing", text=state, what_to_do=to_do)


def _spot(seen: SpotSeen) -> Check:
    info, name = seen.info, seen.info.ip
    if not seen.is_online:
        why = "draining" if info.status == "draining" and seen.age < LONG_SECONDS else f"silent for {seen.age:.0f} s"
        return Check(
            section="spots", name=name, answer="weaker", text=why,
            what_to_do=f"start it again, or fas spots remove --ip {name}",
        )  # fmt: skip
    workers = ", ".join(f"{count} {queue}" for queue, count in sorted(info.workers.items()))
    text = f"online, limits {info.limits}; workers: {workers or 'none'}; {info.running} runs"
    if info.stuck:
        return Check(
            section="spots", name=name, answer="weaker", text=f"{text}; {info.stuck} processes do not die",
            what_to_do="look for a hanging disk or network file system on that host",
        )  # fmt: skip
    if info.problems:
        to_do = "run fas doctor on that host"
        problems = "; ".join(info.problems)
        return Check(section="spots", name=name, answer="weaker", text=f"{text}; {problems}", what_to_do=to_do)
    return Check(section="spots", name=name, answer="ok", text=text)


def _waiting(pending: list[Backlog]) -> Check:
    count = sum(row.open for row in pending)
    oldest = max(((now() - row.oldest) / SECOND for row in pending), default=0.0)
    if oldest < LONG_SECONDS:
        return Check(section="work", name="waiting", answer="ok", text=f"{count} executions")
    return Check(
        section="work",
        name="waiting",
        answer="weaker",
        text=f"{count} executions, the oldest for {oldest:.0f} s",
        what_to_do="more workers (fas up --workers N) or another spot (fas spots add)",
    )
