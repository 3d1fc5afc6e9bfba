"""The lease of an attempt: who holds it runs it; who cannot renew it kills its run before another may start.

A claim is one Lua script, so that taking the lease, leaving RQ's intermediate list, entering RQ's registry of started
jobs and the `RunStarted` report happen together or not at all. Keys and values are those of `contract`.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import redis

from faaspot_runner.contract import (
    LEASE_SECONDS,
    REPORTS,
    BuildRequest,
    RunRequest,
    RunStarted,
    cancel_key,
    dump,
    job_id,
    lease_key,
    load,
)
from faaspot_runner.contract.scripts import CLAIM, RENEW, digest
from faaspot_runner.contract.spots import own_line
from faaspot_runner.line import Lines, Script

log = logging.getLogger(__name__)

HOLD_SECONDS = LEASE_SECONDS - 5.0
"""A run whose lease was not renewed for this long, by the worker's own clock, is killed: 5 s before it runs out."""

_TOKEN = "@token@"  # noqa: S105 (stands where the script puts the token)

Request = RunRequest | BuildRequest
Ending = Literal["cancelled", "lost", "stopped"]
"""Someone cancelled it; its lease is gone or could not be renewed, or the spot died; the platform has to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """RQ's keys around one worker's queue: its common line, and the one that is only for the spot at `spot`."""

    queue: str
    worker: str
    spot: str

    @property
    def lines(self) -> tuple[str, str]:
        """The lists that wake-ups wait in: the common one, the spot's own."""
        return f"rq:queue:{self.queue}", f"rq:queue:{own_line(self.queue, self.spot)}"

    @property
    def intermediates(self) -> tuple[str, str]:
        """For each line the list of what was taken out of it and is not claimed yet."""
        common, own = self.lines
        return f"{common}:intermediate", f"{own}:intermediate"

    @property
    def started(self) -> str:
        return f"rq:wip:{self.queue}"

    @property
    def worker_key(self) -> str:
        return f"rq:worker:{self.worker}"


def job_key(identifier: str) -> str:
    """RQ's hash of one job."""
    return f"rq:job:{identifier}"


class RedisClock:
    """Epoch seconds by Redis' clock, carried on by the monotonic one: setting this machine's clock changes nothing."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def set(self, answer: tuple[int, int]) -> None:
        """Take over an answer to TIME."""
        self._offset = answer[0] + answer[1] / 1e6 - time.monotonic()

    def now(self) -> float:
        return time.monotonic() + self._offset


class Lease:
    """One attempt's right to run, and the word to stop. Thread-safe: the run looks, the keeper and the spot speak.

    `member`: its name in RQ's registry of started jobs, no other's: the attempt, the worker, a number.
    """

    def __init__(self, request: Request, member: str) -> None:
        self.request = request
        self.member = member
        self.taken = self.renewed = time.monotonic()
        self._lock = threading.Lock()
        self._ending: Ending | None = None
        self._stop: Callable[[], None] | None = None

    @property
    def job(self) -> str:
        return job_id(self.request.execution_id, self.request.attempt)

    @property
    def ending(self) -> Ending | None:
        """Why the run must not go on, None if it may."""
        return self._ending

    @property
    def value(self) -> str:
        """What stands in the lease's key while this one has it, and no other of the same attempt."""
        return f"{self.request.token} {self.member}"

    def end(self, why: Ending) -> None:
        """Stop the run, now or as soon as it starts. The first word counts."""
        with self._lock:
            if self._ending is None:
                self._ending = why
                if self._stop is not None:
                    self._stop()

    def on_stop(self, stop: Callable[[], None] | None) -> None:
        """Have `stop` called by `end`; at once if the word was already said. It must not block."""
        with self._lock:
            self._stop = stop
            if stop is not None and self._ending is not None:
                stop()


class Leases:
    """The leases that one worker process holds."""

    def __init__(self, client: redis.Redis, place: Place, spot: str, clock: RedisClock) -> None:
        self._redis = client
        self._place = place
        self._spot = spot
        self._clock = clock
        self._claim = Script(Lines(client), CLAIM)
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._held: dict[str, Lease] = {}

    def __len__(self) -> int:
        return len(self._held)

    def claim(self, identifier: str) -> Lease | None:
        """The lease of a wake-up, in one step with the look at its job; None if there is nothing to run.

        That is: another delivery of it has or had the lease, the job is gone (its attempt has ended), or it is no
        request of this platform. Reports `RunStarted` unless the execution was cancelled; the lease then says so.
        Raises redis.RedisError; then nothing was taken, or the lease runs out by itself.
        """
        member = self._member(identifier)
        state, *answer = self._ask(identifier, "", member)
        if state == 0:
            log.info("%s is a duplicate wake-up, or its attempt has ended", identifier)
            return None
        request = parsed(identifier, answer[-1])
        if request is None:
            self._discard(identifier, member)
            return None
        return self.take(request) if state == 2 else self._hold(Lease(request, member), bool(answer[0]))

    def take(self, request: Request) -> Lease | None:
        """The same for a request that is known already."""
        job = job_id(request.execution_id, request.attempt)
        member = self._member(job)
        state, *answer = self._ask(job, request.token, member)
        return self._hold(Lease(request, member), bool(answer[0])) if state == 1 else None

    def _member(self, job: str) -> str:
        return f"{job}:{self._place.worker}.{next(self._numbers)}"

    def _ask(self, job: str, token: str, member: str) -> list[Any]:
        """Run the script. `token` "": that of the job's hash."""
        execution_id, attempt = _attempt_of(job)
        place = self._place
        before, _, after = dump(self._started(execution_id, attempt)).partition(_TOKEN)
        return cast(
            list[Any],
            self._claim(
                keys=[
                    lease_key(execution_id, attempt),
                    place.intermediates[0],
                    place.started,
                    job_key(job),
                    place.worker_key,
                    place.intermediates[1],
                ],
                args=[
                    token,
                    int(LEASE_SECONDS * 1000),
                    job,
                    member,
                    before,
                    after,
                    place.worker,
                    cancel_key(execution_id),
                    REPORTS,
                ],
            ),
        )

    def _hold(self, lease: Lease, cancelled: bool) -> Lease:
        if cancelled:
            lease.end("cancelled")
        with self._lock:
            self._held[lease.member] = lease
        return lease

    def _discard(self, job: str, member: str) -> None:
        """Take a wake-up away that is none of ours, and whatever was noted of it."""
        with self._redis.pipeline() as pipe:
            for taken in self._place.intermediates:
                pipe.lrem(taken, 1, job)
            pipe.zrem(self._place.started, member)
            pipe.delete(job_key(job), lease_key(*_attempt_of(job)))
            pipe.execute()

    def drop(self, lease: Lease) -> None:
        """Forget a lease whose end was reported or will not be."""
        with self._lock:
            self._held.pop(lease.member, None)

    def cancel(self, execution_id: str) -> None:
        """Stop the run of that execution, if it is here."""
        for lease in self._all():
            if lease.request.execution_id == execution_id:
                lease.end("cancelled")

    def stop(self, why: Ending) -> None:
        """Stop every run that is here."""
        for lease in self._all():
            lease.end(why)

    def renew(self) -> None:
        """Renew all leases in one round trip and look at the cancel keys. Raises redis.RedisError."""
        held = self._all()
        if not held:
            return
        asked = time.monotonic()
        try:
            answers = self._renewed(held)
        except redis.exceptions.NoScriptError:
            self._redis.script_load(RENEW)
            answers = self._renewed(held)
        for lease, (kept, cancelled) in zip(held, answers, strict=True):
            if cancelled:
                lease.end("cancelled")
            elif kept:
                lease.renewed = asked
            else:
                # A server that lost its memory, or a worker that was frozen: someone else may already run it.
                lease.end("lost")

    def _renewed(self, held: Iterable[Lease]) -> list[tuple[int, int]]:
        """For each whether it is kept, and whether its execution was cancelled."""
        with self._redis.pipeline(transaction=False) as pipe:
            for lease in held:
                request = lease.request
                args = (lease.value, int(LEASE_SECONDS * 1000), cancel_key(request.execution_id))
                pipe.evalsha(digest(RENEW), 1, lease_key(request.execution_id, request.attempt), *args)
            return cast(list[tuple[int, int]], pipe.execute())

    def expire(self) -> None:
        """Stop the runs whose lease could not be renewed in time."""
        oldest = time.monotonic() - HOLD_SECONDS
        for lease in self._all():
            if lease.renewed < oldest and lease.ending is None:
                log.warning("the lease of %s could not be renewed, its run is stopped", lease.job)
                lease.end("lost")

    def _all(self) -> Iterable[Lease]:
        with self._lock:
            return tuple(self._held.values())

    def _started(self, execution_id: str, attempt: int) -> RunStarted:
        """The report of a start; the script puts the token in."""
        return RunStarted(
            execution_id=execution_id, attempt=attempt, token=_TOKEN, spot=self._spot, at=self._clock.now()
        )


def parsed(identifier: str, data: bytes) -> Request | None:
    """The request in a job's data: JSON of [function, instance, [request text], keywords], perhaps under zlib."""
    try:
        _, _, (text,), _ = json.loads(data if data.startswith(b"[") else zlib.decompress(data))
        request = load(text)
        if isinstance(request, RunRequest | BuildRequest):
            return request
        problem: object = f"a {type(request).__name__} is not for a worker"
    except (ValueError, TypeError, zlib.error) as error:
        problem = error
    log.error("the job %s is not a request of this platform and is dropped: %s", identifier, problem)
    return None


def recover(client: redis.Redis, place: Place, seen: frozenset[str]) -> frozenset[str]:
    """Put wake-ups back that a dead worker had taken out but not claimed. Raises redis.RedisError.

    `seen`: the answer of the round before. A live worker claims within milliseconds, so what stands in the
    intermediate list two rounds long is an orphan; a wrong guess only makes a duplicate, which loses the lease.
    """
    found: set[str] = set()
    for waiting, taken in zip(place.lines, place.intermediates, strict=True):
        standing = frozenset(_text(item) for item in cast(list[bytes], client.lrange(taken, 0, -1)))
        for identifier in standing & seen:
            with client.pipeline() as pipe:
                pipe.lrem(taken, 1, identifier)
                pipe.lpush(waiting, identifier)
                pipe.execute()
            log.warning("the wake-up %s was taken by a worker that died; it is queued again", identifier)
        found |= standing - seen
    return frozenset(found)


def sweep_started(client: redis.Redis, place: Place) -> None:
    """Take out of RQ's started registry, jobs and all, what no lease keeps alive. Raises redis.RedisError.

    Our entries never expire, so that RQ's own clean-up (any `rq info` runs it) finds nothing to mark as failed.
    """
    members = [_text(item) for item in cast(list[bytes], client.zrange(place.started, 0, -1))]
    if not members:
        return
    jobs = [member.partition(":")[0] for member in members]
    values = cast(list[Any], client.mget([_lease_of(job) for job in jobs]))
    gone = [(member, job) for member, job, value in zip(members, jobs, values, strict=True) if value is None]
    if gone:
        with client.pipeline() as pipe:
            pipe.zrem(place.started, *(member for member, _ in gone))
            pipe.delete(*(job_key(job) for _, job in gone))
            pipe.execute()


def _lease_of(job: str) -> str:
    return lease_key(*_attempt_of(job))


def _attempt_of(job: str) -> tuple[str, int]:
    """Execution id and attempt of a job's id."""
    execution_id, _, attempt = job.rpartition("-")
    return execution_id, int(attempt) if attempt.isdecimal() else 0


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
