"""The queue as the services need it: wake-ups out, replies, leases, logs and spots in.

The store is the truth and the queue a hint, so whatever is said here may be lost and will be said again by the
reconciler. Two implementations pass one contract suite (`tests/contract/test_queue.py`): `rq` (RQ on Redis) and
`inline` (in memory, for tests).

Laws, for every method:

* raises `errors.Unavailable` (`queue_unavailable`, with `retry_after`) if the server is away, refuses to write or does
  not answer within the client's short timeout; nothing else;
* may be called from any thread, and after a fork by the child;
* is idempotent: enqueueing an attempt again replaces its wake-up and never makes a second; deleting, cancelling or
  releasing what is not there is no error.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from faaspot_runner.contract import (
    SPOT_OFFLINE_SECONDS,
    BuildRequest,
    Kind,
    Release,
    RunEnded,
    RunRequest,
    SpotInfo,
    SpotRequest,
)
from faaspot_runner.contract.runtimes import Runtimes
from faaspot_runner.contract.spots import Warm, Wish

LeaseState = Literal["held", "done", "none"]
"""held: a worker runs the attempt; done: it has reported the end (for `LEASE_DONE_SECONDS`); none: no worker has it."""

LOG_START = "0"
"""The cursor of `Queue.tail` for a log's beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at one execution, the key of a wake-up and of a lease."""

    execution_id: str
    attempt: int
    kind: Kind = "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotSeen:
    """What a spot last told of itself, and how many seconds ago by the queue server's clock."""

    info: SpotInfo
    age: float

    @property
    def is_online(self) -> bool:
        """Whether the spot takes work: it was heard of lately, and does not drain."""
        return self.age <= SPOT_OFFLINE_SECONDS and self.info.status == "online"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPart:
    """What came after a cursor: `text` may be empty; `cursor` is the one to ask with next."""

    text: str
    cursor: str


class Queue(Protocol):
    """Wake-ups, replies and leases; see the module for the laws."""

    def enqueue_run(self, request: RunRequest, queue: str) -> None:
        """Wake one worker of `queue` (one of `contract.QUEUES`) for this attempt, on which spot `placement` says."""

    def enqueue_runs(self, requests: Sequence[RunRequest], queue: str) -> None:
        """The same for many, in order, in one pipeline (chunks where there are thousands)."""

    def enqueue_build(self, request: BuildRequest) -> None:
        """Wake one worker of `contract.QUEUE_BUILDS`."""

    def enqueue_spot(self, request: SpotRequest) -> None:
        """Ask the supervisor to add or remove a spot."""

    def queued(self, attempts: Sequence[Attempt]) -> frozenset[Attempt]:
        """Those of `attempts` whose wake-up still stands in its queue (or, kind "spot", in the supervisor's list).

        One that a worker has already taken out, or that was never enqueued, or went with the server's memory, is not.
        """

    def leases(self, attempts: Sequence[Attempt]) -> tuple[LeaseState, ...]:
        """The lease of each attempt, in the same order."""

    def wait_reply(self, execution_id: str, seconds: float) -> RunEnded | None:
        """The end of a run that was enqueued with `reply`; blocks at most `seconds`, then None. Takes it away."""

    def enqueue_and_wait(self, request: RunRequest, queue: str, seconds: float) -> RunEnded | None:
        """`enqueue_run` and `wait_reply` in one exchange with the server."""

    def cancel(self, execution_ids: Sequence[str]) -> None:
        """Set each `cancel_key` and tell the spots at once: no start any more, and a kill of what runs."""

    def delete_jobs(self, attempts: Sequence[Attempt]) -> None:
        """Make wake-ups of executions that have ended or are cancelled wake nobody any more."""

    def release(self, release: Release) -> None:
        """Tell the spots that versions or environments are not needed any more."""

    def want(self, runtimes: Runtimes) -> None:
        """Tell the spots which runtimes shall stand, and keep it for those that are away.

        One that is no newer than what is kept changes nothing.
        """

    def need(self, environments: Sequence[str]) -> None:
        """Write down all the environments that are needed, for the spots that missed a release."""

    def tail(self, execution_id: str, cursor: str, seconds: float) -> LogPart:
        """What a run in flight has written after `cursor` (`LOG_START` first); blocks at most `seconds` for more."""

    def has_room(self) -> bool:
        """Whether the server has memory for more wake-ups; a part is kept for what workers write. Never raises.

        True where nobody knows. Enqueueing without room raises `Unavailable`.
        """

    def shed(self) -> int:
        """Take the newest wake-ups back while the server is so full that workers could not go on; how many.

        Their records stay, and the reconciler wakes them when there is room.
        """

    def lengths(self) -> Mapping[str, int]:
        """How many wake-ups stand in each of `contract.QUEUES`, and under "reports" the events not recorded yet."""

    def spots(self) -> tuple[SpotSeen, ...]:
        """Every spot that has ever told of itself and was not removed, by address."""

    def wish(self, wishes: Mapping[str, Wish], joined: Collection[str]) -> None:
        """Tell the spots, by address or `contract.spots.EVERY`, what is wanted of them, and nothing of any other.

        `joined`: the addresses of those on other hosts; nobody else is listened to there.
        """

    def keep_warm(self, warm: Mapping[str, Warm]) -> None:
        """Tell the spots, by address, which versions shall stand ready there, and of all others that none shall."""

    def concurrency(self) -> Mapping[str, int]:
        """How many runs at once deployments may have, by name, as it was last said with a run or to `limit`."""

    def limit(self, concurrency: Mapping[str, int]) -> None:
        """Say that of these deployments, 0 for any number; from the next `tend` on it counts for what waits already."""

    def strand(self) -> frozenset[str]:
        """Take back the wake-ups that only a spot was to take which is not online; the ids of their executions."""

    def tend(self) -> int:
        """Say how many turns there are by what the spots last told, and end those of runs that nobody has; how many.

        Called every second by one process at least; without it everything goes on, with as many turns as before.
        """

    def settle(self, seconds: float) -> None:
        """Let others go on where turns have ended on other hosts; blocks at most `seconds` for the first of them."""

    def beat(self, problem: str) -> None:
        """The recorder lives: say so, and why it cannot record for now ("" if it can). Forgotten within seconds."""

    def recorder(self) -> str | None:
        """What the recorder last said by `beat`; None if it has fallen silent."""

    def ping(self) -> None:
        """Answers, or raises `Unavailable` that says why (away, wrong password, full, read-only)."""
