"""Trace context in a header: taken where it holds, passed over where not."""

from __future__ import annotations

import pytest

from faaspot_api.domain import traces
from tests.http_api import Api

TRACE = "0af7651916cd43dd8448eb211c80319c"
GOOD = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (GOOD, GOOD),
        (f" {GOOD} ", GOOD),
        (GOOD[:-2] + "ff", GOOD),
        (GOOD[:-2] + "00", GOOD[:-2] + "00"),
        ("cc" + GOOD[2:] + "-of-the-future", GOOD),
        ("ff" + GOOD[2:], None),
        (GOOD + "-more", None),
        (GOOD.upper(), None),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        ("x" * 10_000, None),
        ("", None),
        (None, None),
    ],
)
def test_what_holds_is_taken_and_the_rest_passed_over(header: str | None, found: str | None) -> None:
    assert traces.parse(header) == found


def test_the_id_is_the_traces() -> None:
    assert traces.trace_id(GOOD) == TRACE
    assert traces.trace_id(None) is None


def test_every_way_of_running_takes_it_and_the_record_shows_it() -> None:
    api = Api()
    api.deploy()
    sent = {"traceparent": GOOD}
    uuids = [api.ok("POST", "/v1/deployments/hello/rpc/", {}, headers=sent)]
    uuids += api.ok("POST", "/v1/deployments/hello/bulk_rpc/", [{}, {}], headers=sent)
    uuids += [api.call("POST", "/v1/sync/deployments/hello/rpc/", {}, headers=sent).headers["Execution-Id"]]
    uuids += [api.call("GET", "/v1/sync/deployments/hello/rpc/?a=b", headers=sent).headers["Execution-Id"]]
    for uuid in uuids:
        assert api.ok("GET", f"/v1/executions/{uuid}")["traceparent"] == GOOD
    bare = api.ok("POST", "/v1/deployments/hello/rpc/", {}, headers={"traceparent": "nonsense"})
    assert api.ok("GET", f"/v1/executions/{bare}")["traceparent"] is None
