"""Figures of how the platform stands, for Prometheus: what was counted, and how many wait, run and serve now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import TypeVar

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from faaspot_api.domain.model import Principal
from faaspot_api.errors import NotFound, Unavailable
from faaspot_api.metrics import Metrics
from faaspot_api.queue.base import Queue
from faaspot_api.services import access
from faaspot_api.services.health import OK, HealthService
from faaspot_api.services.policy import Policy
from faaspot_api.store import backlog
from faaspot_api.store.engine import Store
from faaspot_api.store.moments import SECOND, now
from faaspot_runner.contract import SPOT_OFFLINE_SECONDS

Labels = TypeVar("Labels", bound=tuple[str, ...])


class FigureService:
    """What monitoring reads."""

    def __init__(self, store: Store, queue: Queue, health: HealthService, metrics: Metrics, policy: Policy) -> None:
        self._store = store
        self._queue = queue
        self._health = health
        self._metrics = metrics
        self._policy = policy

    @property
    def is_open(self) -> bool:
        """Whether everybody may read them."""
        return self._policy.metrics_open

    def text(self, who: Principal | None) -> bytes:
        """The metrics. `who` None: nobody was asked for. A part that is away has no figures, and says 0 for ready.

        Raises Forbidden, and NotFound where the metrics are off.
        """
        if self._policy.metrics_off:
            raise NotFound("This platform gives no metrics: start it with FAASPOT_METRICS=token, or open.")
        if who is not None:
            access.require_monitor(who)
        return self._metrics.text(_Now(self._store, self._queue, self._health))


class _Now(Collector):
    """What is read at the moment of asking."""

    def __init__(self, store: Store, queue: Queue, health: HealthService) -> None:
        self._store = store
        self._queue = queue
        self._health = health

    def collect(self) -> Iterator[Metric]:
        """Called by the library, once."""
        yield _gauge("faaspot_build_info", "The release that answers.", ("version",), {(version("faaspot"),): 1})
        parts = self._health.ready()
        ready = {(part,): float(state == OK) for part, state in parts.items()}
        yield _gauge("faaspot_ready", "Whether a part that runs need is well, as /readyz says.", ("part",), ready)
        if parts["database"] == OK:
            yield from _quietly(self._open())
        if parts["queue"] == OK:
            yield from _quietly(self._lengths())
            yield from _quietly(self._spots())

    def _open(self) -> Iterator[Metric]:
        with self._store.read() as transaction:
            found = backlog.standing(transaction)
        names, at = ("kind", "queue", "status"), now()
        counts = {(row.kind, row.queue, row.status): float(row.open) for row in found}
        ages = {(row.kind, row.queue, row.status): max(0.0, (at - row.oldest) / SECOND) for row in found}
        yield _gauge("faaspot_open_executions", "Executions that have not ended.", names, counts)
        yield _gauge("faaspot_open_oldest_seconds", "Age of the oldest of them.", names, ages)

    def _lengths(self) -> Iterator[Metric]:
        lengths = dict(self._queue.lengths())
        reports = lengths.pop("reports")
        by_queue = {(name,): float(length) for name, length in lengths.items()}
        yield _gauge("faaspot_queue_wakeups", "Wake-ups that no worker has taken.", ("queue",), by_queue)
        yield _gauge("faaspot_reports_waiting", "Reports of spots that are not recorded yet.", (), {(): float(reports)})

    def _spots(self) -> Iterator[Metric]:
        seen = self._queue.spots()
        states = dict.fromkeys((("online",), ("draining",), ("offline",)), 0.0)
        for spot in seen:
            states[(spot.info.status if spot.age <= SPOT_OFFLINE_SECONDS else "offline",)] += 1
        yield _gauge("faaspot_spots", "Spots by status.", ("status",), states)
        online = [spot.info for spot in seen if spot.is_online]
        running = {(info.ip,): float(info.running) for info in online}
        sandboxes = {(info.ip,): float(info.sandboxes) for info in online}
        stuck = {(info.ip,): float(info.stuck) for info in online}
        workers = {(info.ip, queue): float(count) for info in online for queue, count in info.workers.items()}
        yield _gauge("faaspot_spot_running", "Executions in flight on a spot.", ("spot",), running)
        yield _gauge("faaspot_spot_sandboxes", "Sandboxes that stand on a spot.", ("spot",), sandboxes)
        yield _gauge("faaspot_spot_stuck", "Processes of a spot whose death did not come.", ("spot",), stuck)
        yield _gauge("faaspot_spot_workers", "Living workers of a spot.", ("spot", "queue"), workers)


def _gauge(name: str, help_text: str, labels: tuple[str, ...], found: Mapping[Labels, float]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for label_values, number in found.items():
        family.add_metric(label_values, number)
    return family


def _quietly(part: Iterator[Metric]) -> Iterator[Metric]:
    """What a part tells, as far as it comes: one that went away in the middle is no failure of the others."""
    try:
        yield from part
    except Unavailable:
        return
