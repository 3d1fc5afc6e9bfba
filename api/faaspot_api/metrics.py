"""What is counted and timed, for Prometheus: one `Metrics` for each process, made after any fork.

Several processes of one machine (web processes, the recorder) count the same things. `Metrics.shared` keeps their
counts in files of one directory, so that whichever of them is asked tells of all, and what a dead one counted stays.
Labels are bounded: what people name (deployments) has at most `DEPLOYMENTS` values in a process and its successors, the
rest is `OTHER`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, values
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from faaspot_runner.contract import Timings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DEPLOYMENTS = 100
OTHER = "(other)"
FILE_BYTES = {"counter": 1024 * 1024, "histogram": 2 * 1024 * 1024}
"""Of the shared files, one of each kind of metrics for every process. The bound on labels keeps what is counted below
that, with every status that every address can have.
"""
QUICK = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30, 120)
LONG = (0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 900)
_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""By which the library finds the directory; it knows no other way."""


class Metrics:
    """Counts of this process. Every method may be called from any thread, and after the commit of what it counts."""

    def __init__(self, directory: Path | None = None) -> None:
        """`directory`: where the counts of all processes are, if they are shared (see `shared`)."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._directory = directory
        self._registry = registry = CollectorRegistry()
        self._names: set[str] = set()
        self._naming = Lock()
        self._accepted = Counter(
            "faaspot_accepted", "Runs whose record was committed.", ("kind", "deployment"), registry=registry
        )
        self._ended = Counter(
            "faaspot_ended",
            "Executions that reached their recorded end.",
            ("kind", "deployment", "status", "reason"),
            registry=registry,
        )
        self._retried = Counter("faaspot_retried", "Attempts followed by another.", ("kind",), registry=registry)
        self._starts = Counter(
            "faaspot_starts", "Runs that started in a warm sandbox, or had to wait for a cold one.", ("start",),
            registry=registry,
        )  # fmt: skip
        self._queue_time = Histogram(
            "faaspot_queue_seconds", "From accepted to taken by a worker.", ("kind",), buckets=QUICK, registry=registry
        )
        self._start_time = Histogram(
            "faaspot_start_seconds", "From taken to the function's process.", ("start",), buckets=QUICK,
            registry=registry,
        )  # fmt: skip
        self._import_time = Histogram(
            "faaspot_import_seconds", "Import of a deployment's module, when cold.", buckets=QUICK, registry=registry
        )
        self._run_time = Histogram(
            "faaspot_run_seconds", "How long main ran.", ("deployment",), buckets=LONG, registry=registry
        )
        self._build_time = Histogram(
            "faaspot_build_seconds", "How long builds took.", ("status",), buckets=LONG, registry=registry
        )
        self._leases = Counter(
            "faaspot_leases_expired", "Attempts whose worker was lost.", registry=registry
        )  # fmt: skip
        self._actions = Counter(
            "faaspot_reconciler_actions", "What the reconciler had to put right.", ("action",), registry=registry
        )
        self._pass_time = Histogram(
            "faaspot_reconciler_pass_seconds", "Passes of the reconciler.", buckets=QUICK, registry=registry
        )
        self._answers = Histogram(
            "faaspot_http_seconds", "Answers, waiting for a run included.", ("method", "route", "status"),
            buckets=(0.005, 0.025, 0.1, 1, 30), registry=registry,
        )  # fmt: skip

    @classmethod
    def shared(cls, directory: Path) -> Metrics:
        """Counts that all processes with this directory share. Raises OSError if it cannot be written.

        Call once in a process, before any other `Metrics`. A process takes the first free place; a dead one's is
        taken up by the next, which counts on, so that files stay few and no count ever falls.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = _take_place(directory)
        files = {directory / f"{kind}_{place}.db": size for kind, size in FILE_BYTES.items()}
        for path, size in files.items():
            _reserve(path, size)
        os.environ[_VARIABLE] = str(directory)
        values.ValueClass = values.MultiProcessValue(lambda: place)  # type: ignore[no-untyped-call]
        metrics = cls(directory)
        metrics._names |= {name for path in files for name in _named(path)}
        return metrics

    def accepted(self, kind: str, deployment: str, count: int = 1) -> None:
        """So many executions were accepted."""
        self._accepted.labels(kind, self._name(deployment)).inc(count)

    def ended(self, kind: str, deployment: str, status: str, reason: str | None, timings: Timings) -> None:
        """An execution has its end. A spot's name is no deployment's: `deployment` is "" then."""
        name = self._name(deployment)
        self._ended.labels(kind, name, status, reason or "").inc()
        if timings.queue_ms is not None:
            self._queue_time.labels(kind).observe(timings.queue_ms / 1000)
        if kind == "build" and timings.run_ms is not None:
            self._build_time.labels(status).observe(timings.run_ms / 1000)
        elif timings.run_ms is not None:
            self._run_time.labels(name).observe(timings.run_ms / 1000)
        if timings.cold is not None:
            self._started(timings)

    def retried(self, kind: str) -> None:
        """An attempt is followed by another."""
        self._retried.labels(kind).inc()

    def reconciled(self, action: str, count: int = 1) -> None:
        """The reconciler had to do something, for so many executions."""
        self._actions.labels(action).inc(count)

    def leases_expired(self, count: int) -> None:
        """So many attempts lost their worker."""
        self._leases.inc(count)

    def passed(self, seconds: float) -> None:
        """A pass of the reconciler took so long."""
        self._pass_time.observe(seconds)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered. `route`: the name of the view, never the address as it was sent."""
        self._answers.labels(method, route, str(status)).observe(seconds)

    def text(self, now: Collector) -> bytes:
        """Prometheus' text format: what was counted, and what `now` collects."""
        registry = CollectorRegistry()
        if self._directory is None:
            registry.register(self._registry)
        else:
            registry.register(_Shared(self._directory))
        registry.register(now)
        return generate_latest(registry)

    def _started(self, timings: Timings) -> None:
        start = "cold" if timings.cold else "warm"
        self._starts.labels(start).inc()
        if timings.start_ms is not None:
            self._start_time.labels(start).observe(timings.start_ms / 1000)
        if timings.import_ms is not None:
            self._import_time.observe(timings.import_ms / 1000)

    def _name(self, deployment: str) -> str:
        """The deployment as a label: itself while there are few."""
        if deployment in self._names or not deployment:
            return deployment
        with self._naming:
            if len(self._names) >= DEPLOYMENTS:
                return OTHER
            self._names.add(deployment)
        return deployment


class _Shared(Collector):
    """The counts of all processes."""

    def __init__(self, directory: Path) -> None:
        self._collector = MultiProcessCollector(None, str(directory))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        yield from self._collector.collect()  # type: ignore[no-untyped-call]


_held: list[int] = []
"""The lock of this process' place, held until it ends."""


def _take_place(directory: Path) -> int:
    """The number of the first place that no living process has."""
    place = 0
    while True:
        descriptor = os.open(directory / f"{place}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            place += 1
        else:
            _held.append(descriptor)
            return place


def _named(path: Path) -> Iterator[str]:
    """The deployments that are counted in a file already, by whoever had this place before."""
    for key, *_ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
        if name := json.loads(key)[2].get("deployment"):
            yield name


def _reserve(path: Path, size: int) -> None:
    """Have the disk hold the whole file: writing into a mapped hole of a full one would kill the process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)
