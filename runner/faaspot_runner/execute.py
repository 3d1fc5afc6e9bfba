"""One execution, from the request to its end; the only place that decides status and reason.

An end is reported only for what the function did, or what was said about it (cancelled, too late, interrupted by a
stop of the platform: whether that is the record's end or another attempt follows is known only to the API). When the
platform failed (a zygote died, a fork was refused, a blob is away) there is no end: `run` gives None, the lease goes,
and the reconciler starts another attempt or ends the record as `worker_lost`.

Two clocks bound a run. A cold start (installing a missing environment, starting the sandbox, the import) has
`cold_start_timeout`; then `main` has its own `limits.timeout`, in full, however long the start took.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import IO

from faaspot_runner import outputs
from faaspot_runner.archives import Archives
from faaspot_runner.blobs import BlobError, Blobs, Contexts
from faaspot_runner.contract import (
    BuildOutcome,
    BuildRequest,
    Error,
    LargeValue,
    Marks,
    Reason,
    RunEnded,
    RunRequest,
    SandboxSpec,
    Status,
    Timings,
    Usage,
)
from faaspot_runner.contract.large import most_bytes
from faaspot_runner.environments.build import Environments
from faaspot_runner.environments.errors import BuildError
from faaspot_runner.errors import NotOffered, SandboxError
from faaspot_runner.lease import Lease, RedisClock, Request
from faaspot_runner.report import BuildLog, LiveLog
from faaspot_runner.runtimes.channels import Channels, StoppedError, Warm
from faaspot_runner.runtimes.spot_socket import Prepared, SpotClient, SpotGoneError
from faaspot_runner.sandbox.cgroups import RunSlots
from faaspot_runner.sandbox.outcome import Outcome, request_frame
from faaspot_runner.sandbox.spec import run_environ
from faaspot_runner.seat import Seat

log = logging.getLogger(__name__)

FATE_SECONDS = 2.0
"""How long the spot may take to say what became of a sandbox."""
REFUSED_PAUSE = 0.2
"""Seconds before a refused fork is tried again: what there was too much of may have ended."""
NICE = 5
"""Niceness of builds and of runs that nobody waits for: where processors are short the others go first."""
QUOTED_CHARS = 300
"""What a log keeps of a text that came out of a sandbox or a build."""


class PlatformFailure(Exception):
    """The platform failed the run: there is no end to report, another attempt decides."""


class _Refused(PlatformFailure):
    """Nothing of the user has run, so this attempt may try once more. `sandbox`: the one to avoid."""

    def __init__(self, message: str, sandbox: str) -> None:
        super().__init__(message)
        self.sandbox = sandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end to report, and what is to be done afterwards: wait for the death, give everything back."""

    event: RunEnded
    settle: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a worker runs executions with."""

    spot: str
    clock: RedisClock
    client: SpotClient
    channels: Channels
    slots: RunSlots | None
    blobs: Blobs
    contexts: Contexts
    environments: Environments
    archives: Archives
    cold_start_timeout: float


class Executor:
    """Runs requests, any number at once, each in the calling thread."""

    def __init__(self, means: Means) -> None:
        self._means = means

    def run(self, request: Request, lease: Lease, live: LiveLog) -> Ended | None:
        """The end of the request's run or build, None if there is none to report."""
        try:
            if lease.ending is not None:
                return _only(_Story(self._means, request, lease).stopped())
            if isinstance(request, BuildRequest):
                return _only(_Build(self._means, request, lease, live).run())
            return _Run(self._means, request, lease, live).run()
        except (PlatformFailure, BlobError, SpotGoneError, OSError) as error:
            log.warning("%s has no end, another attempt decides: %s", lease.job, error)
        except Exception:
            # A defect of ours ends as any failure of the platform's does: lease and live log are given back.
            log.exception("%s failed inside the platform, another attempt decides", lease.job)
        return None


def quoted(said: object) -> str:
    """The text of someone whom we do not trust, as one bounded line of a log."""
    return repr(str(said)[:QUOTED_CHARS])


def _only(event: RunEnded | None) -> Ended | None:
    return Ended(event=event, settle=lambda: None) if event else None


class _Story:
    """What every end tells: who, where, when, and how long each part took."""

    def __init__(self, means: Means, request: Request, lease: Lease) -> None:
        self._means = means
        self._request = request
        self._lease = lease
        age = time.monotonic() - lease.taken
        self._queue_ms = max(0.0, (means.clock.now() - age - request.accepted) * 1000) if request.accepted else None

    def timings(self, outcome: Outcome | None = None, **parts: float | bool | dict[str, float] | None) -> Timings:
        since = (time.monotonic() - self._lease.taken) * 1000
        rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in parts.items()}
        return Timings(
            queue_ms=round(self._queue_ms, 3) if self._queue_ms is not None else None,
            total_ms=round(since + (self._queue_ms or 0.0), 3),
            marks=self._marks(outcome),
            **rounded,  # type: ignore[arg-type]
        )

    def _marks(self, outcome: Outcome | None) -> Marks:
        """What is known of the way until now. A wake-up that was said again has no word of the first one's way."""
        request, accepted = self._request, self._request.accepted
        if not accepted:
            return Marks()
        offset = self._means.clock.now() - time.monotonic() - accepted
        at = {"taken": self._lease.taken, "reported": time.monotonic()}
        if outcome is not None:
            began, forked = outcome.began, outcome.forked
            if began is not None and forked is not None:
                forked = min(forked, began)  # the zygote's word of it may come later than the run begins
            steps = (("forked", forked), ("started", began), ("finished", outcome.finished))
            at |= {name: moment for name, moment in steps if moment is not None}
        marks = {name: (moment + offset) * 1000 for name, moment in at.items()}
        if isinstance(request, RunRequest):
            said = (("committed", request.committed), ("queued", request.queued))
            marks |= {name: (moment - accepted) * 1000 for name, moment in said if moment}
        return Marks(**{name: round(max(0.0, mark), 3) for name, mark in marks.items()})

    def end(
        self,
        status: Status,
        reason: Reason | None = None,
        *,
        output: str | None = None,
        large: LargeValue | None = None,
        error: Error | None = None,
        log: str = "",
        logs_truncated: bool = False,
        timings: Timings | None = None,
        usage: Usage | None = None,
        build: BuildOutcome | None = None,
    ) -> RunEnded:
        """The event of this end."""
        return RunEnded(
            execution_id=self._request.execution_id,
            attempt=self._request.attempt,
            token=self._request.token,
            spot=self._means.spot,
            at=self._means.clock.now(),
            status=status,
            reason=reason,
            output=output,
            large=large,
            error=error,
            log=log,
            logs_truncated=logs_truncated,
            timings=timings or self.timings(),
            usage=usage or Usage(),
            build=build,
            traceparent=self._request.traceparent if isinstance(self._request, RunRequest) else None,
        )

    def stopped(self, outcome: Outcome | None = None) -> RunEnded | None:
        """The end of a run that was stopped from outside: cancelled, interrupted, or none at all."""
        log = outcome.log if outcome else ""
        match self._lease.ending:
            case "cancelled":
                error = Error(type="Cancelled", message="Someone cancelled this execution.")
                return self.end("Cancelled", "cancelled", error=error, log=log)
            case "stopped":
                error = Error(type="Interrupted", message="The platform was stopped before it had ended.")
                return self.end("Failure", "interrupted", error=error, log=log)
        return None

    def asked(self, future: Future[Prepared], end: float) -> Prepared:
        """What the spot answers by `end` (`time.monotonic`). Raises SandboxError, StoppedError, SpotGoneError."""
        self._lease.on_stop(lambda: _cancel(future))
        try:
            return future.result(timeout=max(0.0, end - time.monotonic()))
        except CancelledError as error:
            raise StoppedError from error
        except TimeoutError as error:
            future.cancel()
            text = "The runtime did not have everything ready in time."
            raise SandboxError(text, reason="timeout") from error
        finally:
            self._lease.on_stop(None)


def _cancel(future: Future[Prepared]) -> None:
    future.cancel()


class _Run(_Story):
    """One run of `main`."""

    def __init__(self, means: Means, request: RunRequest, lease: Lease, live: LiveLog) -> None:
        super().__init__(means, request, lease)
        self._run = request
        self._spec = request.sandbox
        self._live = live

    def run(self) -> Ended | None:
        """The end, after one try more if the first came to nothing before any of the user's code ran."""
        if self._run.expires is not None and self._means.clock.now() > self._run.expires:
            error = Error(type="NoSpot", message="No spot could take this execution within its maximum age.")
            return _only(self.end("Failure", "no_spot", error=error))
        try:
            return self._attempt(avoid=None)
        except _Refused as refused:
            log.warning("%s is tried once more: %s", self._lease.job, refused)
            time.sleep(REFUSED_PAUSE)
            return self._attempt(avoid=refused.sandbox)

    def _attempt(self, avoid: str | None) -> Ended | None:
        with self._large_args() as args:
            return self._attempt_with(args, avoid)

    def _large_args(self) -> AbstractContextManager[IO[bytes] | None]:
        """The file of args that are a blob. Raises BlobError."""
        large = self._run.large
        return nullcontext() if large is None else self._means.blobs.opened(large.digest, large.size)

    def _attempt_with(self, args: IO[bytes] | None, avoid: str | None) -> Ended | None:
        context = self._means.contexts.open(self._spec.context, self._spec.context_for or self._spec.version_id)
        try:
            warm = self._warm(avoid)
        except StoppedError:
            return _only(self.stopped())
        except SandboxError as error:
            return _only(self._not_started(error))
        environ = run_environ(self._run.execution_id, self._run.attempt, self._run.traceparent)
        # A process that is kept serves sync runs, too, and could not become quicker again.
        nice = 0 if self._run.reply or self._spec.reuse else NICE
        most, given = most_bytes(self._spec.limits.memory), self._run.large or self._run.args
        frame = request_frame(given, context, environ, most, keep=self._spec.reuse, nice=nice)
        return self._drive(warm, frame, args)

    # ------------------------------------------------------------ a place to run

    def _warm(self, avoid: str | None) -> Warm:
        end = time.monotonic() + self._means.cold_start_timeout
        spec = self._with_environment(end)
        return self._means.channels.acquire(
            spec, max(0.0, end - time.monotonic()), avoid=avoid, on_stop=self._lease.on_stop
        )

    def _with_environment(self, end: float) -> SandboxSpec:
        """The spec once the version's packages are on this spot; a check of one directory when they are there.

        With another interpreter than where they were built they have another name here.
        """
        name = self._spec.environment
        if name is None or self._means.environments.path(name).is_dir():
            return self._spec
        try:
            target = self.asked(self._means.client.interpreter(self._spec.runtime, self._spec.python), end).interpreter
            return self._means.archives.installed(self._spec, target, end)
        except BuildError as error:
            raise PlatformFailure(f"the environment could not be installed here: {quoted(error.message)}") from error

    def _not_started(self, failure: SandboxError) -> RunEnded:
        """The end of a run whose sandbox did not come up by the user's own doing."""
        if failure.reason is None or (self._run.elsewhere and failure.error.type == NotOffered.__name__):
            raise PlatformFailure(f"no sandbox: {quoted(failure)}") from failure
        return self.end(
            "Failure", failure.reason, error=failure.error, log=failure.log, timings=self.timings(cold=True)
        )

    # ------------------------------------------------------------ the run itself

    def _drive(self, warm: Warm, frame: bytes, args: IO[bytes] | None) -> Ended | None:
        """Run it in the sandbox. What it occupied is given back after its end was reported, or at once without one."""
        means = self._means
        seat = Seat(means.channels, means.slots, means.client, warm, self._lease)
        event = None
        try:
            if warm.log:
                self._live.write(warm.log.encode("utf-8", "replace"))
            began = time.monotonic()
            deadline = began + self._spec.limits.timeout
            outcome = seat.run(frame, deadline, self._live.write, means.blobs.spool, args)
            event = self._judge(warm, outputs.kept(outcome, means.blobs), began)
        finally:
            if event is None:
                seat.settle()
        return Ended(event=event, settle=seat.settle) if event else None

    def _judge(self, warm: Warm, outcome: Outcome, began: float) -> RunEnded | None:
        """What the outcome means for the record."""
        if outcome.reason in ("lost", "broken"):
            # A zygote that fell silent may have forked without a word: nothing of it may live on beside another start.
            outcome = self._explained(warm, outcome)
        said = outcome.error.message if outcome.error else "it is gone"
        if outcome.reason == "refused" or (outcome.reason == "lost" and outcome.start_ms is None):
            raise _Refused(f"nothing was started in sandbox {warm.sandbox}: {quoted(said)}", warm.sandbox)
        if outcome.reason == "lost":
            raise PlatformFailure(f"sandbox {warm.sandbox} was lost under it: {quoted(said)}")
        whole = replace(outcome, log=warm.log + outcome.log)
        if outcome.status == "Cancelled":
            return self.stopped(whole)
        timings = self.timings(
            outcome,
            start_ms=(began - self._lease.taken) * 1000 - warm.import_ms * warm.cold + (outcome.start_ms or 0.0),
            import_ms=warm.import_ms if warm.cold else None,
            imports=dict(warm.imports) if warm.cold and warm.imports else None,
            run_ms=outcome.run_ms,
            cold=warm.cold,
        )
        return self.end(
            outcome.status,
            "error" if outcome.reason == "broken" else outcome.reason,
            output=outcome.output,
            large=outputs.told(outcome.large),
            error=outcome.error,
            log=whole.log,
            logs_truncated=outcome.logs_truncated,
            timings=timings,
            usage=Usage(max_memory_mb=outcome.max_memory_mb, cpu_ms=outcome.cpu_ms),
        )

    def _explained(self, warm: Warm, outcome: Outcome) -> Outcome:
        """Have the sandbox killed; the outcome with the reason of the spot if that had killed it before."""
        told = self._means.client.suspect(warm.sandbox, stuck=False)
        try:
            known = told.exception(FATE_SECONDS)
        except TimeoutError:
            return outcome
        if outcome.reason != "lost" or not isinstance(known, SandboxError) or known.reason is None:
            return outcome
        return replace(outcome, reason=known.reason, error=known.error)


class _Build(_Story):
    """One build of an environment."""

    def __init__(self, means: Means, request: BuildRequest, lease: Lease, live: LiveLog) -> None:
        super().__init__(means, request, lease)
        self._build = request
        self._log = BuildLog(live)

    def run(self) -> RunEnded | None:
        """Success with the lock and the environment's name, or why there is none."""
        began = time.monotonic()
        try:
            outcome = self._built(began + self._build.timeout)
        except StoppedError:
            return self._cancelled()
        except BuildError as failure:
            if failure.reason == "cancelled":
                return self._cancelled()
            return self._failed(began, failure.reason, failure.message)
        except SandboxError as failure:
            return self._failed(began, failure.reason, str(failure))
        ready = f"Version {self._build.version} of {self._build.deployment} is ready."
        return self._end(began, "Success", None, output=json.dumps(ready), build=outcome)

    def _built(self, end: float) -> BuildOutcome:
        """The environment, made for what the runtime runs, and what the runtime makes of it."""
        build, spot = self._build, self._means.client
        target = self._said(self.asked(spot.interpreter(build.runtime, build.python), end)).interpreter
        outcome = self._means.environments.build(
            build, self._log.line, lambda: self._lease.ending is not None, end, target
        )
        self._said(self.asked(spot.keep(build.runtime, build.python, outcome.environment), end))
        if build.archive and outcome.environment is not None:
            outcome = replace(outcome, archive=self._means.archives.keep(outcome.environment))
        return outcome

    def _said(self, prepared: Prepared) -> Prepared:
        for line in prepared.log.splitlines():
            self._log.line(line)
        return prepared

    def _cancelled(self) -> RunEnded | None:
        return self.stopped(Outcome(status="Cancelled", log=self._log.text))

    def _failed(self, began: float, why: str | None, message: str) -> RunEnded:
        reason: Reason = "timeout" if why == "timeout" else "build_failed"
        return self._end(began, "Failure", reason, error=Error(type="BuildError", message=message))

    def _end(
        self,
        began: float,
        status: Status,
        reason: Reason | None,
        *,
        output: str | None = None,
        error: Error | None = None,
        build: BuildOutcome | None = None,
    ) -> RunEnded:
        timings = self.timings(run_ms=(time.monotonic() - began) * 1000)
        return self.end(
            status,
            reason,
            output=output,
            error=error,
            log=self._log.text,
            logs_truncated=self._log.dropped > 0,
            timings=timings,
            build=build,
        )
