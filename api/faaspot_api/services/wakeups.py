"""Wake-ups: what tells a worker of an execution whose record is committed.

They are hints. If the queue is away nothing is lost: the record stays Pending, and the reconciler says it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import structlog

from faaspot_api.domain import limits, traces
from faaspot_api.domain.model import Args, Version
from faaspot_api.errors import Unavailable
from faaspot_api.queue.base import Attempt, Queue
from faaspot_api.services.policy import Policy
from faaspot_api.store import deployments, executions, logs, spots
from faaspot_api.store.engine import Store, Transaction
from faaspot_api.store.executions import Given, Tracked
from faaspot_api.store.moments import SECOND, now
from faaspot_runner.contract import (
    QUEUE_SYNC,
    BuildRequest,
    LargeValue,
    Release,
    RunEnded,
    RunRequest,
    SandboxSpec,
    SpotRequest,
)
from faaspot_runner.contract.runtimes import Runtimes
from faaspot_runner.contract.spots import Wish

SUPERVISOR_QUEUE = "supervisor"
"""What stands in a record as its queue when the supervisor does the work."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wakeup:
    """A request and the queue that it goes to."""

    request: RunRequest | BuildRequest | SpotRequest
    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What of a record goes into its request. Times in microseconds; `args`: the record's.

    `committed`: when its record was, 0 for a wake-up that is said again.
    """

    uuid: str
    attempt: int
    token: str
    queue: str
    created: int
    expires: int | None
    args: Args | None
    traceparent: str | None = None
    committed: int = 0


def sandbox(name: str, version: Version) -> SandboxSpec:
    """What a runtime needs to stand up a version of the deployment `name`."""
    return SandboxSpec(
        version_id=version.id,
        deployment=name,
        version=version.number,
        runtime=version.settings.runtime or "",
        python=version.settings.python or "",
        code=version.code,
        context=version.context,
        context_for=version.context_for,
        lock=version.lock,
        environment=version.environment,
        archive=version.archive,
        limits=limits.of(version.settings),
        reuse=bool(version.settings.reuse),
    )


def run(task: Task, spec: SandboxSpec, policy: Policy, concurrency: int) -> Wakeup:
    """The wake-up for a run; `concurrency` of its deployment may be under way at once, 0: any number."""
    trace = task.traceparent
    if policy.spans:
        trace = traces.handed_on(trace, task.uuid, task.attempt)
    request = RunRequest(
        execution_id=task.uuid,
        attempt=task.attempt,
        token=task.token,
        sandbox=spec,
        args=task.args if isinstance(task.args, str) else "{}",
        large=task.args if isinstance(task.args, LargeValue) else None,
        reply=task.queue == QUEUE_SYNC,
        accepted=task.created / SECOND,
        committed=task.committed / SECOND,
        queued=now() / SECOND if task.committed else 0.0,
        expires=None if task.expires is None else task.expires / SECOND,
        traceparent=trace,
        concurrency=concurrency,
    )
    return Wakeup(request=request, queue=task.queue)


def build(task: Task, name: str, version: Version, policy: Policy) -> Wakeup:
    """The wake-up for a build."""
    request = BuildRequest(
        execution_id=task.uuid,
        attempt=task.attempt,
        token=task.token,
        deployment=name,
        version=version.number,
        version_id=version.id,
        requirements=version.packages,
        python=version.settings.python or "",
        runtime=version.settings.runtime or "sandbox",
        sdist=bool(version.settings.sdist),
        network=version.settings.network or "none",
        accepted=task.created / SECOND,
        timeout=policy.build_timeout,
    )
    return Wakeup(request=request, queue=task.queue)


def spot(task: Task) -> Wakeup:
    """The wake-up for a change of the spots; the record's args are what was asked."""
    asked = json.loads(task.args if isinstance(task.args, str) else "{}")
    request = SpotRequest(
        execution_id=task.uuid,
        attempt=task.attempt,
        token=task.token,
        action=asked["action"],
        ip=asked["ip"],
        key=asked.get("key"),
        expires=None if task.expires is None else task.expires / SECOND,
    )
    return Wakeup(request=request, queue=task.queue)


def again(transaction: Transaction, rows: Sequence[Tracked], policy: Policy) -> list[Wakeup]:
    """The wake-ups for these records as they stand now; none for those whose deployment was deleted.

    An attempt after one that a spot has lost is to go to another one: a spot whose disk is full, or that does not reach
    the API, is always the first to be free again.
    """
    given = executions.given(transaction, [row.uuid for row in rows])
    wanted = [row.version_id for row in rows if row.version_id]
    versions = deployments.deployment_of(transaction, wanted)
    names = {name for name, _ in versions.values()}
    limits = deployments.concurrency(transaction, names) if names else {}
    found = (_wakeup(row, given[row.uuid], versions, limits, policy) for row in rows)
    lost = logs.lost_on(transaction, [row.uuid for row in rows if row.state.attempt > 1])
    return [_avoiding(wakeup, lost) for wakeup in found if wakeup is not None]


def _avoiding(wakeup: Wakeup, lost: Mapping[str, str]) -> Wakeup:
    request, spot = wakeup.request, lost.get(wakeup.request.execution_id)
    if spot is None or isinstance(request, SpotRequest):
        return wakeup
    return replace(wakeup, request=replace(request, avoid=spot))


def _wakeup(
    row: Tracked,
    given: Given,
    versions: dict[str, tuple[str, Version]],
    limits: Mapping[str, int],
    policy: Policy,
) -> Wakeup | None:
    task = Task(
        uuid=row.uuid,
        attempt=row.state.attempt,
        token=row.state.token,
        queue=row.queue,
        created=row.created,
        expires=row.expires,
        args=given.args,
        traceparent=given.traceparent,
    )
    if row.state.kind == "spot":
        return spot(task)
    if row.version_id not in versions:
        return None
    name, version = versions[row.version_id]
    return (
        build(task, name, version, policy)
        if row.state.kind == "build"
        else run(task, sandbox(name, version), policy, limits.get(name, 0))
    )


class Bell:
    """Rings the queue after a commit. Nothing here fails the caller: what could not be said is logged."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def wake(self, wakeups: Iterable[Wakeup]) -> bool:
        """Enqueue all of these, in order; False if the queue is away and the reconciler has to."""
        return self._try("wake", lambda: self._enqueue(wakeups))

    def ask(self, wakeup: Wakeup, seconds: float) -> RunEnded | None:
        """Enqueue a run and wait for its end; None if none came in time, or the queue is away."""
        told: list[RunEnded | None] = []
        request = wakeup.request
        if isinstance(request, RunRequest):
            self._try("wake", lambda: told.append(self._queue.enqueue_and_wait(request, wakeup.queue, seconds)))
        return told[0] if told else None

    def cancel(self, attempts: Sequence[Attempt]) -> None:
        """Nobody needs these any more: take the wake-ups back, kill what runs."""
        if attempts:
            self._try("cancel", lambda: self._queue.cancel([attempt.execution_id for attempt in attempts]))
            self._try("delete", lambda: self._queue.delete_jobs(attempts))

    def release(self, releases: Iterable[Release]) -> None:
        """Tell the spots what they need not keep."""
        for release in releases:
            if release.version_ids or release.environments:
                self._try("release", lambda release=release: self._queue.release(release))  # type: ignore[misc]

    def wish(self, store: Store) -> bool:
        """Tell the spots what is wanted of them, as it is kept; False if that is nothing."""
        with store.read() as transaction:
            rows = spots.every(transaction)
        wishes = {
            row.ip: Wish(draining=row.draining, leaving=row.leaving, least=row.least, most=row.most) for row in rows
        }
        self._try("wish", lambda: self._queue.wish(wishes, [row.ip for row in rows if row.joined]))
        return bool(rows)

    def want(self, runtimes: Runtimes) -> None:
        """Tell the spots which runtimes shall stand."""
        self._try("want", lambda: self._queue.want(runtimes))

    def _enqueue(self, wakeups: Iterable[Wakeup]) -> None:
        for (kind, queue), group in groupby(wakeups, key=lambda wakeup: (wakeup.request.kind, wakeup.queue)):
            requests = [wakeup.request for wakeup in group]
            runs = [request for request in requests if isinstance(request, RunRequest)]
            if kind == "run" and len(runs) > 1:
                self._queue.enqueue_runs(runs, queue)
            else:
                for request in requests:
                    self._enqueue_one(request, queue)

    def _enqueue_one(self, request: RunRequest | BuildRequest | SpotRequest, queue: str) -> None:
        match request:
            case RunRequest():
                self._queue.enqueue_run(request, queue)
            case BuildRequest():
                self._queue.enqueue_build(request)
            case SpotRequest():
                self._queue.enqueue_spot(request)

    def _try(self, what: str, call: Callable[[], None]) -> bool:
        try:
            call()
        except Unavailable as error:
            _log.warning("queue_unavailable", doing=what, why=error.message)
            return False
        return True
