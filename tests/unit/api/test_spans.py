"""Executions as spans, sent to a collector that speaks OTLP over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from faaspot_api.domain import traces
from faaspot_api.domain.model import RunOptions
from faaspot_api.services import Policy, Services
from faaspot_api.spans import Spans
from faaspot_runner.contract import Timings
from tests.control_plane import ADMIN, KEY, Plane, control_plane, failed

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(ThreadingHTTPServer):
    """Keeps what is sent to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Any] = []
        self.raw = b""


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sent = ExportTraceServiceRequest.FromString(body)
        found = [span for one in sent.resource_spans for scope in one.scope_spans for span in scope.spans]
        self.server.spans += found
        self.server.raw += body
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def spans(collector: Collector) -> Spans:
    return Spans()


@pytest.fixture
def plane(tmp_path: Path, spans: Spans) -> Iterator[Plane]:
    with control_plane(tmp_path, spans=True) as plain:
        policy = Policy(spans=True)
        services = Services.make(
            plain.store, plain.blobs, plain.queue, KEY.public_key().public_bytes_raw(), policy, spans=spans
        )
        yield Plane(services=services, queue=plain.queue, store=plain.store, blobs=plain.blobs, home=tmp_path)


def test_a_run_is_a_child_of_its_callers_span_and_the_parent_of_the_functions(
    plane: Plane, spans: Spans, collector: Collector
) -> None:
    plane.create()
    uuid = plane.services.executions.run(ADMIN, "hello", '{"word": "private"}', RunOptions(traceparent=CALLER)).uuid
    request = plane.take()
    assert request.traceparent == traces.handed_on(CALLER, uuid, 1)
    plane.start(request)
    timings = Timings(queue_ms=2.0, start_ms=1.0, run_ms=5.0, cold=False)
    plane.finish(request, timings=timings, output='"private, too"')
    spans.close()
    root, *parts = sorted(collector.spans, key=lambda span: span.name != "run hello")
    _, trace, own, flags = request.traceparent.split("-")
    assert (root.trace_id.hex(), root.span_id.hex(), flags) == (trace, own, "01")
    assert trace == traces.trace_id(CALLER)
    assert root.parent_span_id.hex() == CALLER.split("-")[2]
    assert [part.name for part in parts] == ["queue", "start", "run"]
    assert {part.parent_span_id for part in parts} == {root.span_id}
    took = [part.end_time_unix_nano - part.start_time_unix_nano for part in parts]
    assert took == [2_000_000, 1_000_000, 5_000_000]
    known = {each.key: each.value for each in root.attributes}
    assert known["faaspot.execution.id"].string_value == uuid
    assert b"private" not in collector.raw
    assert plane.record(uuid).traceparent == CALLER


def test_without_a_caller_a_trace_begins_that_is_found_by_the_execution(
    plane: Plane, spans: Spans, collector: Collector
) -> None:
    plane.create()
    uuid = plane.run()
    plane.finish(plane.take(), **failed("oom"))
    spans.close()
    (root,) = [span for span in collector.spans if span.name == "run hello"]
    assert root.trace_id.hex() == uuid.replace("-", "")
    assert not root.parent_span_id
    assert (root.status.code, root.status.message) == (2, "oom")
    assert plane.record(uuid).traceparent is None


def test_what_the_caller_does_not_sample_is_not_sent(plane: Plane, spans: Spans, collector: Collector) -> None:
    plane.create()
    plane.services.executions.run(ADMIN, "hello", "{}", RunOptions(traceparent=CALLER[:-2] + "00"))
    request = plane.take()
    assert request.traceparent.endswith("-00")
    plane.finish(request)
    spans.close()
    assert collector.spans == []
