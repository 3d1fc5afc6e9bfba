"""What is measured of an execution, and when."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """When each step was, in milliseconds after the execution was accepted; None: it was not, or nobody saw it.

    `forked`: the run's process was named; `started` and `finished`: `main`, as its own process says; `reported`: the
    worker had the end ready; `recorded`: so has the record; `answered`: a waiting caller was given it.
    """

    committed: float | None = None
    queued: float | None = None
    taken: float | None = None
    forked: float | None = None
    started: float | None = None
    finished: float | None = None
    reported: float | None = None
    recorded: float | None = None
    answered: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Milliseconds. queue: accepted -> taken; start: taken -> the process runs; import, imports (the slowest modules,
    each without those that it imports): only when cold."""

    queue_ms: float | None = None
    start_ms: float | None = None
    import_ms: float | None = None
    imports: dict[str, float] | None = None
    run_ms: float | None = None
    total_ms: float | None = None
    cold: bool | None = None
    marks: Marks = field(default_factory=Marks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    max_memory_mb: float | None = None
    cpu_ms: float | None = None
