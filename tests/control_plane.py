"""The services over a real database and the queue in memory; a test plays the worker."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from faaspot_api.domain.model import DeploymentChange, Execution, Principal
from faaspot_api.domain.model import Settings as Said
from faaspot_api.queue.inline import InlineQueue, Request
from faaspot_api.services import Policy, Services
from faaspot_api.store.blobs import Blobs
from faaspot_api.store.engine import Store
from faaspot_api.store.migrate import migrate
from faaspot_runner.contract import (
    QUEUE_BACKGROUND,
    QUEUE_BUILDS,
    QUEUE_SYNC,
    BuildOutcome,
    BuildRequest,
    Error,
    RunEnded,
    RunRequest,
    RunStarted,
    SpotInfo,
)

ADMIN = Principal(name="admin", role="admin")
ANN = Principal(name="ann", role="deployer")
BOB = Principal(name="bob", role="deployer")
EVE = Principal(name="eve", role="invoker")
MAIN = "def main(args, context):\n    return args\n"
LOCK = "requests==2.32.0 --hash=sha256:00\n"
KEY = X25519PrivateKey.generate()


def a_spot(ip: str = "127.0.0.1", **more: Any) -> SpotInfo:
    """What an online spot tells of itself."""
    values: dict[str, Any] = {
        "ip": ip,
        "created": 1.0,
        "last_seen": 2.0,
        "status": "online",
        "runtimes": ("sandbox",),
        "pythons": {"3.11": "3.11.7", "3.12": "3.12.1"},
        "networks": ("none",),
        "limits": "rlimit",
    }
    return SpotInfo(**(values | more))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """The control plane of one test."""

    services: Services
    queue: InlineQueue
    store: Store
    blobs: Blobs
    home: Path

    # ------------------------------------------------------------ people

    def create(self, name: str = "hello", who: Principal = ADMIN, code: str = MAIN, **said: Any) -> str:
        """Make a deployment."""
        return self.services.deployments.create(who, name, change(code=code, **said))

    def update(self, deployment: str = "hello", /, who: Principal = ADMIN, **said: Any) -> str:
        """Change it."""
        return self.services.deployments.update(who, deployment, change(**said))

    def run(self, name: str = "hello", who: Principal = ADMIN, args: Any = None) -> str:
        """A background run; its id."""
        return self.services.executions.run(who, name, json.dumps(args or {})).uuid

    def record(self, uuid: str) -> Execution:
        """The record as it stands."""
        return self.services.executions.get(ADMIN, uuid)

    def log(self, uuid: str) -> str:
        """Its log."""
        return self.services.executions.logs(ADMIN, uuid)

    def blob_files(self) -> set[str]:
        """The digests of all blobs."""
        return {path.name for path in (self.home / "blobs").rglob("*") if path.is_file()}

    # ------------------------------------------------------------ the worker

    def take(self, queue: str = QUEUE_BACKGROUND, seconds: float = 0.0) -> Any:
        """The oldest wake-up of a queue; there must be one."""
        request = self.queue.take(queue, seconds)
        assert request is not None, f"nothing was enqueued in {queue}"
        return request

    def start(self, request: Request) -> None:
        """Take the lease and report the start."""
        assert self.queue.hold(request)
        self.queue.report(started(request))
        self.record_events()

    def finish(self, request: Request, **more: Any) -> RunEnded:
        """Report the end and let the recorder record it."""
        event = ended(request, **more)
        self.queue.finish(request, event)
        self.record_events()
        return event

    def record_events(self) -> None:
        """What the recorder process does."""
        self.services.recorder.apply(self.queue.events())

    def build(self, **more: Any) -> BuildRequest:
        """Play the build that stands in the queue: it succeeds, if `more` says nothing else."""
        request: BuildRequest = self.take(QUEUE_BUILDS)
        self.start(request)
        outcome = BuildOutcome(lock=LOCK, environment="env-1", packages=("requests==2.32.0",))
        self.finish(request, **{"output": None, "build": outcome, **more})
        return request

    def passes(self, *moments: float) -> None:
        """Make reconciler passes at these seconds of its clock."""
        for moment in moments:
            self.services.reconciler.pass_(moment)

    @contextlib.contextmanager
    def working(self, queue: str = QUEUE_SYNC, **more: Any) -> Iterator[list[RunRequest]]:
        """A worker in a thread: takes one wake-up of `queue` and ends it as `more` says; yields what it took."""
        taken: list[RunRequest] = []

        def work() -> None:
            request = self.queue.take(queue, 10)
            if isinstance(request, RunRequest) and self.queue.hold(request):
                taken.append(request)
                self.queue.report(started(request))
                self.queue.finish(request, ended(request, **more))

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield taken
        finally:
            thread.join(10)
            assert not thread.is_alive()


def change(**said: Any) -> DeploymentChange:
    """A change; what is not a part of a deployment is a setting."""
    parts = {name: said.pop(name) for name in ("code", "requirements", "context", "name") if name in said}
    return DeploymentChange(**parts, settings=Said(**said))


def started(request: Request) -> RunStarted:
    """The report of a start."""
    return RunStarted(
        execution_id=request.execution_id,
        attempt=request.attempt,
        token=request.token,
        spot="127.0.0.1",
        at=time.time(),
    )


def ended(request: Request, **more: Any) -> RunEnded:
    """The report of an end: a success with the output 42, if `more` says nothing else."""
    event = RunEnded(
        execution_id=request.execution_id,
        attempt=request.attempt,
        token=request.token,
        spot="127.0.0.1",
        at=time.time(),
        status="Success",
        output="42",
        log="printed\n",
    )
    return replace(event, **more)


def failed(reason: str = "error", message: str = "no\nmore", kind: str = "ValueError") -> dict[str, Any]:
    """What `ended` takes for a failure."""
    error = Error(type=kind, message=message, traceback="Traceback ...")
    return {"status": "Failure", "reason": reason, "output": None, "error": error}


@contextlib.contextmanager
def control_plane(home: Path, url: str | None = None, blobs: Blobs | None = None, **policy: Any) -> Iterator[Plane]:
    """A control plane with one online spot; `policy`: what differs from quick defaults."""
    url = url or f"sqlite:///{home / 'faaspot.db'}"
    migrate(url)
    store, blobs, queue = Store(url), blobs or Blobs(home / "blobs"), InlineQueue()
    queue.heartbeat(a_spot())
    quick = Policy(**{"queueing": 0.2, "in_flight": 0.2, "max_attempts": 2, **policy})
    services = Services.make(store, blobs, queue, KEY.public_key().public_bytes_raw(), quick)
    try:
        yield Plane(services=services, queue=queue, store=store, blobs=blobs, home=home)
    finally:
        store.close()
