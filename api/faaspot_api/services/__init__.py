"""Use cases, one transaction each. HTTP knows only this package and the domain.

`Services` is what `create_app` hands to the blueprints; `Services.make` puts it together, for the recorder process too:

``deployments: DeploymentService``
    create(who, name, change) -> execution id        update(who, name, change) -> execution id
    delete(who, name) -> execution id                rollback(who, name, number) -> execution id
    get(who, name) -> Deployment                     list(who) -> tuple[Deployment, ...]
    versions(who, name) -> tuple[Version, ...]       version(who, name, number) -> Version
    code(version) -> str                             lock(version) -> str | None

``executions: ExecutionService``
    run(who, name, args, options) -> Execution       args: JSON text of a dict, checked by the caller (size, strict),
                                                     or what this gave for those that are too long:
    take_args(who, name, pieces) -> LargeValue
    run_bulk(who, name, [args], options) -> list of ids
    run_wait(who, name, args, wait: float | None, gone, options) -> (Execution, ended: bool)
        gone(): the caller has left; it is not waited for any more, and the run goes on.
        None: the deployment's timeout + 30 s of queueing; with no spot online at its end the run ends `no_spot`.
        Never raises for how the run ended: the record says it. An error carries `execution_id` once there is a record.
    wait(who, id, seconds) -> Execution              returns at its end or after `seconds`
    get(who, id) -> Execution                        (waits up to 1 s for a result in flight)
    get_bulk(who, ids, wait, gone) -> list           unknown ids: NotFound, all of them in `extra["unknown"]`;
                                                     with `wait` seconds once the first of them has ended
    list(who, filter, limit, cursor) -> Page
    cancel(who, id) -> Execution                     (waits up to 1 s for the kill; Started if it takes longer)
    output(who, id) -> Text                          of one that has ended, however long it is
    args(who, id) -> Text
    logs(who, id) -> str
    follow(who, id, gone) -> Iterator[str]           until the end, or the reader is gone(); "" while silent

``reruns: RerunService``
    rerun(who, id) -> execution id                   rerun_all(who, filter, limit, cursor) -> Reruns

``callbacks: CallbackService``
    of(who, id) -> Callback                          secret(who) -> str

``courier: Courier``
    round() -> bool                                  every half second, by one process

``spots: SpotService``
    list(who) / get(who, ip) -> Spot                 add(who) -> execution id
    remove(who, ip | None) -> execution id           replace(who, ip) -> execution id
    update(who, min, max, ip) -> dict                refresh(who, ip | "all") -> execution id
    drain(who, ip, draining) -> Spot

``joining: JoinService``
    join(who, ip, key) -> Admission                  a spot on another host, let in
    blob(who, digest) -> size, bytes                 keep_blob(who, digest, size, pieces)

``runtimes: RuntimeService``
    list(who) / get(who, name) -> Runtime            create(who, definition) -> Runtime
    deploy(who, name) / undeploy(who, name) -> Runtime, on its way      delete(who, name)

``tokens: TokenService``
    authenticate(text) -> Principal (raises Unauthorized)   list(who)
    create(who, name, role, spots) -> (Token, text)         revoke(who, name)
    first_token(text = "") -> text | None            there is an `admin`, with this text if one is given

``health: HealthService``
    ready() -> dict of part (database, queue, recorder, spots) -> "ok" or a reason
    beat(problem)                                    the recorder's sign of life

``figures: FigureService``
    text(who) -> the metrics in Prometheus' text format

``doctor: DoctorService``
    examine(who) -> Examination, for `fas doctor --server`

``recorder: Recorder``
    apply(events)                                    idempotent; raises Unavailable: then give them again
    apply_reported(events)                           the same, where most may be on record already

``reconciler: Reconciler``
    pass_(monotonic seconds)                         every few seconds, by one process

Every method checks the role and the owner itself (`access` is the one place) and raises only `faaspot_api.errors`. A
queue that is away never fails a run, a change or a cancel: their records are committed, the reconciler goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from faaspot_api.keys import public_key
from faaspot_api.metrics import Metrics
from faaspot_api.queue.base import Queue
from faaspot_api.services.acceptance import Acceptance
from faaspot_api.services.callbacks import CallbackSecrets, CallbackService
from faaspot_api.services.clearing import Clearing
from faaspot_api.services.courier import Courier
from faaspot_api.services.deployments import DeploymentService
from faaspot_api.services.doctor import DoctorService
from faaspot_api.services.executions import ExecutionService
from faaspot_api.services.figures import FigureService
from faaspot_api.services.health import HealthService
from faaspot_api.services.joining import JoinService
from faaspot_api.services.policy import Policy
from faaspot_api.services.reconciler import Reconciler
from faaspot_api.services.recorder import Recorder
from faaspot_api.services.reruns import RerunService
from faaspot_api.services.retention import Retention
from faaspot_api.services.runtimes import RuntimeService
from faaspot_api.services.spots import SpotService
from faaspot_api.services.sweeping import Sweeping
from faaspot_api.services.tokens import TokenService
from faaspot_api.services.wakeups import Bell
from faaspot_api.settings import Settings
from faaspot_api.store.blobs import Blobs
from faaspot_api.store.engine import Store

if TYPE_CHECKING:
    from faaspot_api.spans import Spans

_log = structlog.get_logger(__name__)

__all__ = [
    "CallbackService",
    "Courier",
    "DeploymentService",
    "DoctorService",
    "ExecutionService",
    "FigureService",
    "HealthService",
    "JoinService",
    "Policy",
    "Reconciler",
    "Recorder",
    "RerunService",
    "RuntimeService",
    "Services",
    "SpotService",
    "TokenService",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that the control plane can do. One for a process, made after any fork."""

    deployments: DeploymentService
    executions: ExecutionService
    reruns: RerunService
    callbacks: CallbackService
    courier: Courier
    spots: SpotService
    joining: JoinService
    runtimes: RuntimeService
    tokens: TokenService
    health: HealthService
    figures: FigureService
    doctor: DoctorService
    metrics: Metrics
    recorder: Recorder
    reconciler: Reconciler

    @classmethod
    def make(
        cls,
        store: Store,
        blobs: Blobs,
        queue: Queue,
        spot_key: bytes,
        policy: Policy | None = None,
        metrics: Metrics | None = None,
        spans: Spans | None = None,
    ) -> Services:
        """The services over these parts. `spot_key`: the spots' public key, 32 raw bytes (`keys/spot.pub`).

        `metrics` None: what this process counts is its own.
        """
        policy, metrics = policy or Policy(), metrics or Metrics()
        recorder = Recorder(store, blobs, queue, policy, metrics, spans)
        acceptance = Acceptance(store, queue, policy, metrics)
        secrets = CallbackSecrets(store)
        health = HealthService(store, queue)
        spots = SpotService(store, queue)
        clearing = Clearing(store, blobs, Bell(queue), recorder, policy)
        return cls(
            deployments=DeploymentService(store, blobs, queue, recorder, clearing, policy, spot_key),
            executions=ExecutionService(store, blobs, queue, recorder, acceptance, policy),
            reruns=RerunService(store, blobs, acceptance),
            callbacks=CallbackService(store, secrets),
            courier=Courier(store, secrets, policy),
            spots=spots,
            joining=JoinService(store, blobs, queue, spots, policy),
            runtimes=RuntimeService(store, queue),
            tokens=TokenService(store),
            health=health,
            figures=FigureService(store, queue, health, metrics, policy),
            doctor=DoctorService(store, blobs, queue, health),
            metrics=metrics,
            recorder=recorder,
            reconciler=Reconciler(
                store, queue, recorder, clearing, Retention(store, policy), Sweeping(store, blobs), policy, metrics
            ),
        )

    @classmethod
    def open(cls, settings: Settings, queue: Queue) -> Services:
        """The services of a server with these settings; its database must be migrated. Raises KeyMissingError."""
        return cls.make(
            open_store(settings),
            Blobs(settings.data_dir / "blobs"),
            queue,
            public_key(settings),
            Policy.of(settings),
            _metrics(settings),
            _spans(settings),
        )


def _metrics(settings: Settings) -> Metrics:
    """The counts that all processes share; this one's own where the disk is full: it has to answer all the same."""
    try:
        return Metrics.shared(settings.data_dir / "run" / "metrics")
    except OSError as error:
        _log.warning("this process counts for itself alone: its part of the metrics is missing", reason=str(error))
        return Metrics()


def _spans(settings: Settings) -> Spans | None:
    """Where executions are sent as spans, if they are."""
    if not settings.otel:
        return None
    # Only then: it is an extra, and its import takes long.
    from faaspot_api.spans import Spans

    return Spans()


def open_store(settings: Settings) -> Store:
    """The database of these settings. Raises BadDatabaseError for a URL that cannot be used."""
    return Store(settings.database, synchronous="FULL" if settings.database_sync == "FULL" else "NORMAL")
