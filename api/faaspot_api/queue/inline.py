"""The queue in memory, for tests without a server: the laws of `base`, plus the worker's side of the seam.

A test plays the worker: `take` a wake-up, `hold` its lease, `report` events, `finish` with an end. `away` makes every
call fail as a dead server would, `lose_everything` is a server that came back empty.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from threading import Condition

from faaspot_api.errors import Unavailable
from faaspot_api.queue.base import Attempt, LeaseState, LogPart, SpotSeen
from faaspot_runner.contract import (
    QUEUE_BUILDS,
    QUEUES,
    SUPERVISOR,
    BuildRequest,
    Release,
    RunEnded,
    RunRequest,
    RunStarted,
    SpotInfo,
    SpotRequest,
)
from faaspot_runner.contract.runtimes import Runtimes
from faaspot_runner.contract.spots import Warm, Wish

Request = RunRequest | BuildRequest | SpotRequest


class InlineQueue:
    """A `Queue` in this process. `away`: why every call fails, None while it works; `full`: it takes no more."""

    def __init__(self) -> None:
        self.away: str | None = None
        self.full = False
        self.cancelled: set[str] = set()
        self.released: list[Release] = []
        self.wanted: Runtimes | None = None
        self.needed: tuple[str, ...] | None = None
        self.wishes: dict[str, Wish] = {}
        self.joined: frozenset[str] = frozenset()
        self.warm: dict[str, Warm] = {}
        self._recorder: str | None = None
        self._changed = Condition()
        self._waiting: dict[str, dict[str, dict[Attempt, Request]]] = defaultdict(dict)
        """By queue and lane, the lane whose turn is next first."""
        self._placed: dict[Attempt, str] = {}
        self._concurrency: dict[str, int] = {}
        self._leases: dict[Attempt, tuple[str, LeaseState]] = {}
        self._replies: dict[str, deque[RunEnded]] = defaultdict(deque)
        self._logs: dict[str, str] = defaultdict(str)
        self._spots: dict[str, tuple[SpotInfo, float]] = {}
        self._events: list[RunStarted | RunEnded] = []

    # ------------------------------------------------------------ the services' side

    def enqueue_run(self, request: RunRequest, queue: str) -> None:
        """See `Queue.enqueue_run`."""
        self._put(queue, request)

    def enqueue_runs(self, requests: Sequence[RunRequest], queue: str) -> None:
        """See `Queue.enqueue_runs`."""
        for request in requests:
            self._put(queue, request)

    def enqueue_build(self, request: BuildRequest) -> None:
        """See `Queue.enqueue_build`."""
        self._put(QUEUE_BUILDS, request)

    def enqueue_spot(self, request: SpotRequest) -> None:
        """See `Queue.enqueue_spot`."""
        self._put(SUPERVISOR, request)

    def queued(self, attempts: Sequence[Attempt]) -> frozenset[Attempt]:
        """See `Queue.queued`."""
        self._check()
        with self._changed:
            return frozenset(attempt for attempt in attempts for line in self._lines() if attempt in line)

    def leases(self, attempts: Sequence[Attempt]) -> tuple[LeaseState, ...]:
        """See `Queue.leases`."""
        self._check()
        with self._changed:
            return tuple(self._leases.get(attempt, ("", "none"))[1] for attempt in attempts)

    def wait_reply(self, execution_id: str, seconds: float) -> RunEnded | None:
        """See `Queue.wait_reply`."""
        self._check()
        with self._changed:
            self._changed.wait_for(lambda: bool(self._replies[execution_id]) or self.away is not None, seconds)
            self._check()
            return self._replies[execution_id].popleft() if self._replies[execution_id] else None

    def enqueue_and_wait(self, request: RunRequest, queue: str, seconds: float) -> RunEnded | None:
        """See `Queue.enqueue_and_wait`."""
        self._put(queue, request)
        return self.wait_reply(request.execution_id, seconds)

    def cancel(self, execution_ids: Sequence[str]) -> None:
        """See `Queue.cancel`."""
        self._check()
        with self._changed:
            self.cancelled.update(execution_ids)
            self._changed.notify_all()

    def delete_jobs(self, attempts: Sequence[Attempt]) -> None:
        """See `Queue.delete_jobs`."""
        self._check()
        with self._changed:
            for line in self._lines():
                for attempt in attempts:
                    line.pop(attempt, None)

    def release(self, release: Release) -> None:
        """See `Queue.release`."""
        self._check()
        self.released.append(release)

    def want(self, runtimes: Runtimes) -> None:
        """See `Queue.want`."""
        self._check()
        with self._changed:
            if self.wanted is None or runtimes.revision > self.wanted.revision:
                self.wanted = runtimes

    def need(self, environments: Sequence[str]) -> None:
        """See `Queue.need`."""
        self._check()
        self.needed = tuple(environments)

    def tail(self, execution_id: str, cursor: str, seconds: float) -> LogPart:
        """See `Queue.tail`. The cursor is the number of characters read."""
        self._check()
        with self._changed:
            self._changed.wait_for(lambda: len(self._logs[execution_id]) > int(cursor), seconds)
            text = self._logs[execution_id]
            return LogPart(text=text[int(cursor) :], cursor=str(len(text)))

    def has_room(self) -> bool:
        """See `Queue.has_room`."""
        return not self.full

    def shed(self) -> int:
        """See `Queue.shed`. This one never holds anybody up."""
        self._check()
        return 0

    def lengths(self) -> Mapping[str, int]:
        """See `Queue.lengths`."""
        self._check()
        with self._changed:
            lengths = {name: sum(map(len, self._waiting[name].values())) for name in QUEUES}
            return lengths | {"reports": len(self._events)}

    def spots(self) -> tuple[SpotSeen, ...]:
        """See `Queue.spots`."""
        self._check()
        now = time.monotonic()
        with self._changed:
            return tuple(SpotSeen(info=info, age=now - seen) for _, (info, seen) in sorted(self._spots.items()))

    def wish(self, wishes: Mapping[str, Wish], joined: Collection[str]) -> None:
        """See `Queue.wish`."""
        self._check()
        self.wishes, self.joined = dict(wishes), frozenset(joined)

    def keep_warm(self, warm: Mapping[str, Warm]) -> None:
        """See `Queue.keep_warm`."""
        self._check()
        self.warm = dict(warm)

    def concurrency(self) -> Mapping[str, int]:
        """See `Queue.concurrency`."""
        self._check()
        with self._changed:
            return dict(self._concurrency)

    def limit(self, concurrency: Mapping[str, int]) -> None:
        """See `Queue.limit`. Here it counts at once."""
        self._check()
        with self._changed:
            self._say(concurrency)
            self._changed.notify_all()

    def strand(self) -> frozenset[str]:
        """See `Queue.strand`. Here every spot takes everything."""
        self._check()
        return frozenset()

    def tend(self) -> int:
        """See `Queue.tend`. Here a run that has ended or lost its lease has no turn any more."""
        self._check()
        return 0

    def settle(self, seconds: float) -> None:
        """See `Queue.settle`. Here no turn ends elsewhere."""
        self._check()

    def beat(self, problem: str) -> None:
        """See `Queue.beat`. This one forgets it with everything else only."""
        self._check()
        self._recorder = problem

    def recorder(self) -> str | None:
        """See `Queue.recorder`."""
        self._check()
        return self._recorder

    def ping(self) -> None:
        """See `Queue.ping`."""
        self._check()

    # ------------------------------------------------------------ the spot's side

    def take(self, queue: str, seconds: float = 0.0) -> Request | None:
        """The oldest wake-up of `queue`, as a worker takes it, waiting at most `seconds` for one."""
        with self._changed:
            self._changed.wait_for(lambda: self._next(queue) is not None, seconds)
            lane = self._next(queue)
            if lane is None:
                return None
            lanes = self._waiting[queue]
            line = lanes[lane] = lanes.pop(lane)  # now it is the others' turn
            attempt = next(iter(line))
            self._placed[attempt] = lane
            return line.pop(attempt)

    def hold(self, request: Request) -> bool:
        """Take the lease of the attempt. False: another has it, or it has ended."""
        attempt = _attempt(request)
        with self._changed:
            if self._leases.get(attempt, ("", "none"))[1] != "none":
                return False
            self._leases[attempt] = (request.token, "held")
            return True

    def expire(self, request: Request) -> None:
        """Let the attempt's lease run out, as that of a dead worker does."""
        with self._changed:
            self._leases.pop(_attempt(request), None)
            self._placed.pop(_attempt(request), None)

    def report(self, event: RunStarted | RunEnded) -> None:
        """Put an event on the reports stream; `events` gives it to the recorder."""
        with self._changed:
            self._events.append(event)

    def finish(self, request: Request, ended: RunEnded) -> None:
        """Report the end, reply to who waits and mark the lease done, as a worker does."""
        with self._changed:
            self._events.append(ended)
            if isinstance(request, RunRequest) and request.reply:
                self._replies[request.execution_id].append(ended)
            self._leases[_attempt(request)] = (request.token, "done")
            self._placed.pop(_attempt(request), None)
            self._changed.notify_all()

    def reply(self, ended: RunEnded) -> None:
        """Tell an end to who waits for it, as the supervisor does."""
        with self._changed:
            self._replies[ended.execution_id].append(ended)
            self._changed.notify_all()

    def write_log(self, execution_id: str, text: str) -> None:
        """What a run in flight writes."""
        with self._changed:
            self._logs[execution_id] += text
            self._changed.notify_all()

    def kept(self) -> Runtimes | None:
        """The wanted runtimes, as a spot reads them when it connects."""
        return self.wanted

    def heartbeat(self, info: SpotInfo, age: float = 0.0) -> None:
        """A spot tells of itself (`age` seconds ago)."""
        with self._changed:
            self._spots[info.ip] = (info, time.monotonic() - age)

    def events(self) -> list[RunStarted | RunEnded]:
        """The reports since the last call, in order."""
        with self._changed:
            events, self._events = self._events, []
            return events

    def lose_everything(self) -> None:
        """Be a server that came back empty."""
        with self._changed:
            self._waiting.clear()
            self._placed.clear()
            self._concurrency.clear()
            self._leases.clear()
            self._replies.clear()
            self._logs.clear()
            self._spots.clear()
            self._events.clear()
            self.cancelled.clear()
            self.wanted = None
            self._recorder = None
            self._changed.notify_all()

    def _put(self, queue: str, request: Request) -> None:
        self._check()
        if self.full:
            raise Unavailable("The queue is full. Try again in a moment.", retry_after=2)
        with self._changed:
            line = self._waiting[queue].setdefault(_lane(request), {})
            line.pop(_attempt(request), None)
            line[_attempt(request)] = request
            if isinstance(request, RunRequest):
                self._say({_lane(request): request.concurrency})
            self._changed.notify_all()

    def _say(self, concurrency: Mapping[str, int]) -> None:
        said = {**self._concurrency, **concurrency}
        self._concurrency = {name: most for name, most in said.items() if most}

    def _lines(self) -> list[dict[Attempt, Request]]:
        return [line for lanes in self._waiting.values() for line in lanes.values()]

    def _next(self, queue: str) -> str | None:
        """The lane whose turn it is."""
        for lane, line in self._waiting[queue].items():
            most = 0 if queue == QUEUE_BUILDS else self._concurrency.get(lane, 0)
            if line and (not most or sum(lane == other for other in self._placed.values()) < most):
                return lane
        return None

    def _check(self) -> None:
        if self.away is not None:
            raise Unavailable(f"The queue is away: {self.away}. Try again in a moment.", retry_after=2)


def _lane(request: Request) -> str:
    match request:
        case RunRequest():
            return request.sandbox.deployment
        case BuildRequest():
            return request.deployment
    return ""


def _attempt(request: Request) -> Attempt:
    return Attempt(execution_id=request.execution_id, attempt=request.attempt, kind=request.kind)
