"""The queue on Redis: wake-ups are RQ jobs, everything else the keys of `contract`. See `base` for the laws.

RQ carries the jobs and decides nothing: no timeout, no result, no retry of its own. One RQ queue for each of
`contract.QUEUES`, because a worker that listens on several takes jobs out without a trace.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import redis
import structlog
from rq.job import Job

from faaspot_api.errors import Unavailable
from faaspot_api.queue import clients
from faaspot_api.queue.base import Attempt, LeaseState, LogPart, SpotSeen
from faaspot_api.queue.clients import (
    RECORDER,
    RECORDER_SECONDS,
    RETRY_AFTER,
    SLICE_SECONDS,
    TAKEN,
    as_text,
    slices,
    translated,
)
from faaspot_api.queue.jobs import CHUNK, chunks, enqueueing, id_of
from faaspot_api.queue.lines import Lines
from faaspot_api.queue.memory import CROWDED, ROOM, Memory
from faaspot_api.queue.placement import Placement
from faaspot_api.queue.turns import SETTLE, TEND, capacities
from faaspot_api.queue.users import SpotUsers
from faaspot_api.settings import Settings
from faaspot_runner.contract import (
    CANCEL_SECONDS,
    CONTROL,
    ENVIRONMENTS,
    ENVIRONMENTS_SECONDS,
    LEASE_DONE,
    QUEUE_BUILDS,
    REPORTS,
    RUNTIMES,
    SPOTS,
    SUPERVISOR,
    BuildRequest,
    Cancel,
    Message,
    Release,
    RunEnded,
    RunRequest,
    SpotInfo,
    SpotRequest,
    cancel_key,
    dump,
    lease_key,
    load,
    load_spot,
    log_key,
    reply_key,
)
from faaspot_runner.contract.lanes import CONCURRENCY, OVER
from faaspot_runner.contract.runtimes import Runtimes
from faaspot_runner.contract.scripts import SCRIPTS
from faaspot_runner.contract.spots import JOINED, WARM, WISHES, Warm, Wish, spot_key

HEALTH_KEY = "faaspot:health"
_log = structlog.get_logger(__name__)


class RedisQueue:
    """A `Queue` on one Redis server."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._memory = Memory(client)
        self._lines = Lines(client)
        self._placement = Placement(self.spots)

    @classmethod
    def open(cls, settings: Settings) -> RedisQueue:
        """The queue of the settings' Redis; nothing is sent yet."""
        return cls(clients.connect(settings))

    # ------------------------------------------------------------ wake-ups

    def enqueue_run(self, request: RunRequest, queue: str) -> None:
        """See `Queue.enqueue_run`."""
        self._enqueue([request], queue)

    def enqueue_runs(self, requests: Sequence[RunRequest], queue: str) -> None:
        """See `Queue.enqueue_runs`."""
        for part in chunks(requests):
            self._enqueue(part, queue)

    def enqueue_build(self, request: BuildRequest) -> None:
        """See `Queue.enqueue_build`."""
        self._enqueue([request], QUEUE_BUILDS)

    def enqueue_spot(self, request: SpotRequest) -> None:
        """See `Queue.enqueue_spot`."""
        text = dump(request)
        with translated(), self._redis.pipeline() as pipe:
            pipe.lrem(SUPERVISOR, 0, text)
            pipe.rpush(SUPERVISOR, text)
            pipe.execute()

    def queued(self, attempts: Sequence[Attempt]) -> frozenset[Attempt]:
        """See `Queue.queued`. A spot request counts until the supervisor is done with it."""
        spots = {attempt.execution_id: attempt for attempt in attempts if attempt.kind == "spot"}
        jobs = {id_of(attempt): attempt for attempt in attempts if attempt.kind != "spot"}
        found: set[Attempt] = set()
        with translated():
            if spots:
                found.update(self._requested(spots))
            for identifier in self._lines.listed() if jobs else ():
                if identifier in jobs:
                    found.add(jobs.pop(identifier))
        return frozenset(found)

    def delete_jobs(self, attempts: Sequence[Attempt]) -> None:
        """See `Queue.delete_jobs`."""
        with translated():
            self._drop_jobs([id_of(attempt) for attempt in attempts if attempt.kind != "spot"])
            self._drop_requests({attempt.execution_id for attempt in attempts if attempt.kind == "spot"})

    # ------------------------------------------------------------ what runs

    def leases(self, attempts: Sequence[Attempt]) -> tuple[LeaseState, ...]:
        """See `Queue.leases`."""
        if not attempts:
            return ()
        with translated():
            values = self._redis.mget([lease_key(attempt.execution_id, attempt.attempt) for attempt in attempts])
        return tuple(_lease(value) for value in values)

    def wait_reply(self, execution_id: str, seconds: float) -> RunEnded | None:
        """See `Queue.wait_reply`. What stands on the list and is not an end is passed over."""
        for wait in slices(seconds):
            with translated():
                popped = self._redis.blpop([reply_key(execution_id)], timeout=wait)
            if popped is not None:
                ended = _load(popped[1])
                if isinstance(ended, RunEnded):
                    return ended
        return None

    def enqueue_and_wait(self, request: RunRequest, queue: str, seconds: float) -> RunEnded | None:
        """See `Queue.enqueue_and_wait`. Said a second time, step by step, if the connection turns out to be dead."""
        self._refuse_without_room()
        key = reply_key(request.execution_id)
        placed = self._placement.place(request, queue)
        commands = [*enqueueing([placed]), ("BLPOP", key, min(SLICE_SECONDS, max(seconds, 0.001)))]
        with translated():
            try:
                *_, popped = self._exchange(commands)
            except (redis.ConnectionError, redis.TimeoutError):
                self.enqueue_run(request, queue)
                return self.wait_reply(request.execution_id, seconds)
        ended = None if popped is None else _load(popped[1])
        return ended if isinstance(ended, RunEnded) else None

    def cancel(self, execution_ids: Sequence[str]) -> None:
        """See `Queue.cancel`."""
        with translated(), self._redis.pipeline(transaction=False) as pipe:
            for execution_id in execution_ids:
                pipe.set(cancel_key(execution_id), "1", ex=CANCEL_SECONDS)
                pipe.publish(CONTROL, dump(Cancel(execution_id=execution_id)))
            pipe.execute()

    def release(self, release: Release) -> None:
        """See `Queue.release`."""
        with translated():
            self._redis.publish(CONTROL, dump(release))

    def want(self, runtimes: Runtimes) -> None:
        """See `Queue.want`. Watched, so that of two processes that speak at once the newer one's word stays."""

        def say(pipe: Any) -> None:
            kept = pipe.get(RUNTIMES)
            known = None if kept is None else _load(kept)
            pipe.multi()
            if not isinstance(known, Runtimes) or runtimes.revision > known.revision:
                text = dump(runtimes)
                pipe.set(RUNTIMES, text)
                pipe.publish(CONTROL, text)

        with translated():
            self._redis.transaction(say, RUNTIMES)

    def need(self, environments: Sequence[str]) -> None:
        """See `Queue.need`. Nobody goes by what is no longer renewed."""
        with translated():
            self._redis.set(ENVIRONMENTS, json.dumps(list(environments)), ex=int(10 * ENVIRONMENTS_SECONDS))

    def tail(self, execution_id: str, cursor: str, seconds: float) -> LogPart:
        """See `Queue.tail`. The cursor is an id of the log's stream."""
        key = log_key(execution_id)
        for wait in slices(seconds):
            with translated():
                answer = cast(Any, self._redis.xread({key: cursor}, block=max(1, int(wait * 1000))))
            if answer:
                entries = answer[0][1]
                text = b"".join(fields.get(b"text", b"") for _, fields in entries)
                return LogPart(text=text.decode(errors="replace"), cursor=entries[-1][0].decode())
        return LogPart(text="", cursor=cursor)

    def has_room(self) -> bool:
        """See `Queue.has_room`. What was seen counts for a moment."""
        return self._memory.used() < ROOM

    def shed(self) -> int:
        """See `Queue.shed`."""
        taken = 0
        with translated():
            if self._memory.look() < CROWDED:
                return 0
            while self._memory.look() >= ROOM and (part := self._lines.take_newest()):
                taken += part
        if taken:
            _log.warning("queue_shed", wakeups=taken)
        return taken

    def lengths(self) -> Mapping[str, int]:
        """See `Queue.lengths`."""
        with translated():
            return {**self._lines.lengths(), "reports": self._redis.xlen(REPORTS)}

    def spots(self) -> tuple[SpotSeen, ...]:
        """See `Queue.spots`. Ages are by Redis' clock, which wrote `last_seen`, too: nobody was seen in the future."""
        with translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hvals(SPOTS)
            pipe.smembers(JOINED)
            pipe.time()
            local, joined, (seconds, micros) = pipe.execute()
            keys = [spot_key(as_text(ip)) for ip in joined]
            remote = self._redis.mget(keys) if keys else []
        now = seconds + micros / 1e6
        infos = [info for text in local if (info := _spot(text))]
        # What a spot of another host says counts for its own address alone.
        infos += [
            replace(info, remote=True)
            for ip, text in zip(joined, remote, strict=True)
            if text is not None and (info := _spot(text)) and info.ip == as_text(ip)
        ]
        seen = (SpotSeen(info=info, age=abs(now - info.last_seen)) for info in infos)
        return tuple(sorted(seen, key=lambda spot: spot.info.ip))

    def wish(self, wishes: Mapping[str, Wish], joined: Collection[str]) -> None:
        """See `Queue.wish`."""
        with translated():
            crowded = self._memory.look() >= CROWDED
        for ip in (ip for ip, wish in wishes.items() if wish.leaving and crowded):
            # One that was removed may be who fills the server, which lets the supervisor write nothing any more.
            SpotUsers(self._redis).dismiss(ip)
        with translated(), self._redis.pipeline() as pipe:
            pipe.delete(WISHES, JOINED)
            if wishes:
                pipe.hset(WISHES, mapping={ip: wish.text() for ip, wish in wishes.items()})
            if joined:
                pipe.sadd(JOINED, *joined)
                for script in SCRIPTS:  # which they may not give to the server themselves
                    pipe.script_load(script)
            pipe.execute()

    def keep_warm(self, warm: Mapping[str, Warm]) -> None:
        """See `Queue.keep_warm`."""
        with translated(), self._redis.pipeline() as pipe:
            pipe.delete(WARM)
            if warm:
                pipe.hset(WARM, mapping={ip: each.text() for ip, each in warm.items()})
            pipe.execute()

    def concurrency(self) -> Mapping[str, int]:
        """See `Queue.concurrency`."""
        with translated():
            said = cast(dict[bytes, bytes], self._redis.hgetall(CONCURRENCY))
        return {as_text(name): int(most) for name, most in said.items()}

    def limit(self, concurrency: Mapping[str, int]) -> None:
        """See `Queue.limit`."""
        with translated(), self._redis.pipeline() as pipe:
            for name, most in concurrency.items():
                pipe.hset(CONCURRENCY, name, str(most)) if most else pipe.hdel(CONCURRENCY, name)
            pipe.execute()

    def strand(self) -> frozenset[str]:
        """See `Queue.strand`."""
        with translated():
            stranded = self._lines.strand({spot.info.ip for spot in self.spots() if spot.is_online})
        return frozenset(identifier.rpartition("-")[0] for identifier in stranded)

    def tend(self) -> int:
        """See `Queue.tend`."""
        places = [part for pair in capacities(self.spots()).items() for part in pair]
        with translated():
            return int(cast(int, self._redis.eval(TEND, 0, *places)))

    def settle(self, seconds: float) -> None:
        """See `Queue.settle`. What was taken out to be waited for is put back, for the script to find."""
        with translated():
            if self._redis.blmove(OVER, OVER, timeout=min(seconds, SLICE_SECONDS)) is not None:  # type: ignore[arg-type]
                self._redis.eval(SETTLE, 0)

    def beat(self, problem: str) -> None:
        """See `Queue.beat`."""
        with translated():
            self._redis.set(RECORDER, problem, ex=RECORDER_SECONDS)

    def recorder(self) -> str | None:
        """See `Queue.recorder`."""
        with translated():
            said = self._redis.get(RECORDER)
        return None if said is None else as_text(cast(bytes, said))

    def ping(self) -> None:
        """See `Queue.ping`. Writes, because a full or read-only server still answers PING."""
        with translated():
            self._redis.set(HEALTH_KEY, "1", ex=60)

    # ------------------------------------------------------------ inside

    def _enqueue(self, requests: Sequence[RunRequest | BuildRequest], queue: str) -> None:
        """Save and put in line all jobs, a few in one step and all in one exchange."""
        self._refuse_without_room()
        commands = enqueueing([self._placement.place(request, queue) for request in requests])
        with translated():
            try:
                self._exchange(commands)
            except redis.ConnectionError:  # a connection that a restart of the server broke
                self._exchange(commands)

    def _refuse_without_room(self) -> None:
        if not self.has_room():
            raise Unavailable("The queue is unavailable: Redis is near its memory limit.", retry_after=RETRY_AFTER)

    def _exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send them together and read their answers, on one connection and with nothing around it.

        Raises redis.RedisError; a connection that failed is not used again.
        """
        pool = self._redis.connection_pool
        connection: Any = pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            answers = [connection.read_response() for _ in commands]
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)
        return answers

    def _requested(self, wanted: dict[str, Attempt]) -> Iterator[Attempt]:
        for text in [*self._redis.lrange(SUPERVISOR, 0, -1), *self._redis.lrange(TAKEN, 0, -1)]:
            request = _load(text)
            if isinstance(request, SpotRequest) and request.execution_id in wanted:
                attempt = wanted[request.execution_id]
                if attempt.attempt == request.attempt:
                    yield attempt

    def _drop_jobs(self, identifiers: Sequence[str]) -> None:
        """Delete the jobs. Their ids stay in line: a search for each would stall the server, and a worker that comes
        to one without a job passes it over.
        """
        for start in range(0, len(identifiers), CHUNK):
            self._redis.unlink(*(Job.key_for(identifier) for identifier in identifiers[start : start + CHUNK]))

    def _drop_requests(self, execution_ids: set[str]) -> None:
        if not execution_ids:
            return
        for text in self._redis.lrange(SUPERVISOR, 0, -1):
            request = _load(text)
            if isinstance(request, SpotRequest) and request.execution_id in execution_ids:
                self._redis.lrem(SUPERVISOR, 0, as_text(text))


def _lease(value: bytes | str | None) -> LeaseState:
    if value is None:
        return "none"
    return "done" if as_text(value) == LEASE_DONE else "held"


def _spot(text: bytes | str) -> SpotInfo | None:
    try:
        return load_spot(text)
    except ValueError as error:
        _log.warning("a spot's heartbeat cannot be read", error=str(error))
        return None


def _load(text: bytes | str) -> Message | None:
    try:
        return load(text)
    except ValueError as error:
        _log.warning("a message in Redis cannot be read", error=str(error))
        return None
