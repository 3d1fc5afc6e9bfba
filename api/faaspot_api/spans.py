"""Executions as spans of OpenTelemetry, for those who ask for it (`FAASPOT_OTEL`, extra `otel`).

Each recorded end gives one span, a child of its caller's, with children for queue, import, start and run. Its id
follows from the execution and the attempt (`domain.traces.span_id`), so that the function was given it as the parent
before there was a span. Where they go is said by the variables of OpenTelemetry itself (`OTEL_EXPORTER_OTLP_ENDPOINT`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import local

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from faaspot_api.domain import traces
from faaspot_api.store.executions import Ending, Tracked

MILLI, MICRO = 1_000_000, 1_000
"""Nanoseconds."""
PARTS = ("queue_ms", "import_ms", "start_ms", "run_ms")


class Spans:
    """Sends the spans of this process, from a thread of its own; a collector that is away holds nobody up."""

    def __init__(self) -> None:
        self._ids = _Ids()
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "faaspot"}))
        self._provider = TracerProvider(resource=resource, id_generator=self._ids)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("faaspot")

    def ended(self, row: Tracked, ending: Ending, caller: str | None) -> None:
        """An execution has its end; `caller`: the traceparent that came with its request."""
        handed = traces.handed_on(caller, row.uuid, row.state.attempt)
        _, trace_id, span_id, _ = handed.split("-")
        with self._ids.taking(int(trace_id, 16), int(span_id, 16)):
            span = self._tracer.start_span(
                f"{row.state.kind} {row.name}",
                context=_context(caller),
                kind=SpanKind.CONSUMER,
                start_time=row.created * MICRO,
                attributes={
                    "faaspot.execution.id": row.uuid,
                    "faaspot.execution.attempt": row.state.attempt,
                    "faaspot.deployment": row.name,
                    "faaspot.version": row.version or 0,
                    "faaspot.spot": ending.spot or "",
                    "faaspot.status": ending.status,
                    "faaspot.reason": ending.reason or "",
                },
            )
        self._parts(row.created * MICRO, ending, trace.set_span_in_context(span))
        if ending.status != "Success":
            span.set_status(Status(StatusCode.ERROR, ending.reason))
        span.end(ending.ended * MICRO)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _parts(self, at: int, ending: Ending, within: Context) -> None:
        for name in PARTS:
            took = ending.timings.get(name)
            if took is not None:
                part = self._tracer.start_span(name.removesuffix("_ms"), context=within, start_time=at)
                at += round(took * MILLI)
                part.end(at)


class _Ids(RandomIdGenerator):
    """Random ids, but for the span whose id was handed to the function before."""

    def __init__(self) -> None:
        self._next = local()

    @contextmanager
    def taking(self, trace_id: int, span_id: int) -> Iterator[None]:
        """The span that this thread starts meanwhile has these."""
        self._next.ids = trace_id, span_id
        try:
            yield
        finally:
            self._next.ids = None

    def generate_trace_id(self) -> int:
        ids: tuple[int, int] | None = getattr(self._next, "ids", None)
        return ids[0] if ids else super().generate_trace_id()

    def generate_span_id(self) -> int:
        ids: tuple[int, int] | None = getattr(self._next, "ids", None)
        return ids[1] if ids else super().generate_span_id()


def _context(caller: str | None) -> Context:
    """The caller's span as the parent; an empty one for a trace that begins here."""
    if caller is None:
        return Context()
    _, trace_id, parent, flags = caller.split("-")
    known = SpanContext(int(trace_id, 16), int(parent, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    return trace.set_span_in_context(NonRecordingSpan(known), Context())
