"""Use cases, one transaction each. HTTP knows only this package and the domain.

`Services` is what `create_app` hands to the blueprints; `Services.make` puts it together, for the recorder process too:

``deployments: DeploymentService``
    create(who, name, change) -> execution id        update(who, name, change) -> execution id
    delete(who, name) -> execution id                rollback(who, name, number) -> execution id
    get(who, name) -> Deployment                     list(who) -> tuple[Deployment, ...]
    versions(who, name) -> tuple[Version, ...]       version(who, name, number) -> Version
    code(version) -> str                             lock(version) -> str | None

``executions: ExecutionService``
    run(who, name, args) -> Execution                args: JSON text of a dict, checked by the caller (size, strictness)
    run_bulk(who, name, [args]) -> list of ids
    run_wait(who, name, args, wait: float | None, gone) -> (Execution, ended: bool)
        gone(): the caller has left; it is not waited for any more, and the run goes on.
        None: the deployment's timeout + 30 s of queueing; with no spot online at its end the run ends `no_spot`.
        Never raises for how the run ended: the record says it. An error carries `execution_id` once there is a record.
    wait(who, id, seconds) -> Execution              returns at its end or after `seconds`
    get(who, id) -> Execution                        (waits up to 1 s for a result in flight)
    get_bulk(who, ids) -> list                       unknown ids: NotFound, all of them in `extra["unknown"]`
    list(who, filter, limit, cursor) -> Page
    cancel(who, id) -> Execution                     (waits up to 1 s for the kill; Started if it takes longer)
    logs(who, id) -> str
    follow(who, id, gone) -> Iterator[str]           until the end, or the reader is gone(); "" while silent

``spots: SpotService``
    list(who) / get(who, ip) -> Spot                 add(who) -> execution id
    remove(who, ip | None) -> execution id           replace(who, ip) -> execution id
    update(who, min, max) -> dict                    refresh(who, ip | "all") -> execution id

``runtimes: RuntimeService``
    list(who) / get(who, name) -> Runtime            create(who, definition) -> Runtime
    deploy(who, name) / undeploy(who, name) -> Runtime, on its way      delete(who, name)

``tokens: TokenService``
    authenticate(text) -> Principal (raises Unauthorized)   list(who)
    create(who, name, role, spots) -> (Token, text)         revoke(who, name)
    first_token(text = "") -> text | None            there is an `admin`, with this text if one is given

``health: HealthService``
    ready() -> dict of part (database, queue, spots) -> "ok" or a reason

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

from faaspot_api.keys import public_key
from faaspot_api.queue.base import Queue
from faaspot_api.services.clearing import Clearing
from faaspot_api.services.deployments import DeploymentService
from faaspot_api.services.executions import ExecutionService
from faaspot_api.services.health import HealthService
from faaspot_api.services.policy import Policy
from faaspot_api.services.reconciler import Reconciler
from faaspot_api.services.recorder import Recorder
from faaspot_api.services.runtimes import RuntimeService
from faaspot_api.services.spots import SpotService
from faaspot_api.services.tokens import TokenService
from faaspot_api.services.wakeups import Bell
from faaspot_api.settings import Settings
from faaspot_api.store.blobs import Blobs
from faaspot_api.store.engine import Store

__all__ = [
    "DeploymentService",
    "ExecutionService",
    "HealthService",
    "Policy",
    "Reconciler",
    "Recorder",
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
    spots: SpotService
    runtimes: RuntimeService
    tokens: TokenService
    health: HealthService
    recorder: Recorder
    reconciler: Reconciler

    @classmethod
    def make(cls, store: Store, blobs: Blobs, queue: Queue, spot_key: bytes, policy: Policy | None = None) -> Services:
        """The services over these parts. `spot_key`: the spots' public key, 32 raw bytes (`keys/spot.pub`)."""
        policy = policy or Policy()
        recorder = Recorder(store, blobs, queue, policy)
        clearing = Clearing(store, blobs, Bell(queue), recorder)
        return cls(
            deployments=DeploymentService(store, blobs, queue, recorder, clearing, policy, spot_key),
            executions=ExecutionService(store, queue, recorder, policy),
            spots=SpotService(store, queue),
            runtimes=RuntimeService(store, queue),
            tokens=TokenService(store),
            health=HealthService(store, queue),
            recorder=recorder,
            reconciler=Reconciler(store, queue, recorder, clearing, policy),
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
        )


def open_store(settings: Settings) -> Store:
    """The database of these settings. Raises BadDatabaseError for a URL that cannot be used."""
    return Store(settings.database, synchronous="FULL" if settings.database_sync == "FULL" else "NORMAL")
