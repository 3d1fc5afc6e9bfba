"""Records, pages, logs, cancelling."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from faaspot_api.domain.model import Filter, RunOptions
from tests.http_api import HELLO, Api


@pytest.fixture
def api() -> Api:
    made = Api()
    made.deploy()
    return made


def test_pages_are_linked_until_the_last(api: Api) -> None:
    ids = api.ok("POST", "/v1/deployments/hello/bulk_rpc/", [{}] * 25)
    path, seen = "/api/executions/?include_completed=True&limit=10&deployment=hello&status=Success", []
    while path:
        answer = api.call("GET", path)
        seen += [one["uuid"] for one in answer.json or ()]
        link = answer.headers.get("Link")
        if link is None:
            break
        address, _, relation = link.partition(";")
        assert relation.strip() == 'rel="next"'
        path = address.strip("<>")
        assert path.startswith(
            "/api/executions/?include_completed=True&limit=10&deployment=hello&status=Success&cursor="
        )
    assert [one for one in seen if one in ids] == ids[::-1]
    assert len(seen) == 26


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", Filter(ended=False)),
        ("include_completed=true", Filter()),
        ("include_completed=0", Filter(ended=False)),
        ("status=Success", Filter(status="Success", ended=False)),
        ("reason=oom&deployment=hello", Filter(reason="oom", deployment="hello", ended=False)),
        ("since=2026-11-21T10:00:00Z", Filter(since=datetime(2026, 11, 21, 10, tzinfo=UTC), ended=False)),
        ("since=2026-11-21", Filter(since=datetime(2026, 11, 21, tzinfo=UTC), ended=False)),
        ("until=2026-11-21 10:00:00.5+02:00", Filter(until=datetime(2026, 11, 21, 8, 0, 0, 500000, UTC), ended=False)),
        ("until=2026-11-21%2010:00:00%2B00:00", Filter(until=datetime(2026, 11, 21, 10, tzinfo=UTC), ended=False)),
    ],
)
def test_filters_reach_the_service(api: Api, query: str, wanted: Filter) -> None:
    api.ok("GET", f"/v1/executions/?{query}")
    assert api.last == (wanted, 100, None)


@pytest.mark.parametrize(
    "query",
    [
        "status=done", "status=", "status=success", "reason=x", "since=yesterday-ish", "until=",
        "since=0001-01-01T00:00:00%2B14:00",
        "limit=0", "limit=1001", "limit=x", "limit=1e2", "limit=", "cursor=zzz", "include_completed=",
        "status=Success&status=Failure",
        "surprise=1", "limit=99999999999999999999", "follow=true",
    ],
)  # fmt: skip
def test_a_malformed_filter_is_a_400_that_names_it(api: Api, query: str) -> None:
    problem = api.refused(400, "GET", f"/v1/executions/?{query}")
    assert problem["errors"][0]["field"] == query.split("=")[0]


@pytest.mark.parametrize("query", ["deployment=%FF", "deployment=%C3%28", "%FF=1"])
def test_a_query_that_is_not_utf_8_is_a_400(api: Api, query: str) -> None:
    assert api.refused(400, "GET", f"/v1/executions/?{query}")["errors"][0]["field"] == "query"


@pytest.mark.parametrize("name", ["%27%20OR%201%3D1--", "%00", "", "../x", "unknown"])
def test_a_deployment_that_cannot_be_has_no_executions(api: Api, name: str) -> None:
    assert api.ok("GET", f"/v1/executions/?include_completed=True&deployment={name}") == []


def test_the_record_has_every_field_of_the_wire(api: Api) -> None:
    run = api.ok("POST", "/v1/deployments/hello/rpc/", {"n": [1, None]})
    record = api.ok("GET", f"/v1/executions/{run}")
    assert set(record) == {
        "uuid", "name", "deployment", "version", "kind", "status", "reason", "output", "error", "args", "created",
        "started", "ended", "spot", "attempt", "timings", "usage", "logs_truncated",
        "traceparent", "output_size", "args_size",
    }  # fmt: skip
    assert (record["output"], record["args"], record["kind"]) == ({"n": [1, None]}, {"n": [1, None]}, "run")


def test_the_output_alone_is_read_once_it_has_ended(api: Api) -> None:
    run = api.ok("POST", "/v1/deployments/hello/rpc/", {"n": 1})
    answer = api.call("GET", f"/v1/executions/{run}/output", buffered=True)
    assert (answer.text, answer.content_type, answer.content_length) == ('{"n": 1}', "application/json", 8)
    api.deploy("forever", HELLO + "# never ends\n")
    waiting = api.ok("POST", "/v1/deployments/forever/rpc/")
    assert api.refused(409, "GET", f"/v1/executions/{waiting}/output")["message"] == "It has not ended."
    api.refused(404, "GET", f"/v1/executions/{uuid.uuid4()}/output")


def test_an_output_that_is_too_long_for_its_record_is_sent_all_the_same(api: Api) -> None:
    run = api.ok("POST", "/v1/deployments/hello/rpc/")
    state = api.services.state
    state.executions[run] = replace(state.executions[run], output=None, output_blob="b" * 64, output_size=100)
    record = api.ok("GET", f"/v1/executions/{run}")
    assert (record["output"], record["output_size"]) == (None, 100)
    assert api.ok("GET", f"/v1/executions/{run}/output") == "x" * 98


def test_the_args_alone_are_read_whatever_their_length(api: Api) -> None:
    run = api.ok("POST", "/v1/deployments/hello/rpc/", {"n": 1})
    assert api.call("GET", f"/v1/executions/{run}/args", buffered=True).text == '{"n": 1}'
    state = api.services.state
    state.executions[run] = replace(state.executions[run], args=None, args_blob="b" * 64, args_size=100)
    record = api.ok("GET", f"/v1/executions/{run}")
    assert (record["args"], record["args_size"]) == (None, 100)
    assert api.ok("GET", f"/v1/executions/{run}/args", buffered=True) == {"x": "x" * 92}
    api.refused(404, "GET", f"/v1/executions/{uuid.uuid4()}/args")


def test_a_bulk_read_keeps_the_order(api: Api) -> None:
    ids = api.ok("POST", "/v1/deployments/hello/bulk_rpc/", [{"n": 1}, {"n": 2}])
    asked = ids[::-1]
    assert [one["uuid"] for one in api.ok("POST", "/v1/executions/bulk", asked)] == asked
    assert api.ok("POST", "/v1/executions/bulk", []) == []


def test_a_bulk_read_may_wait_for_the_first(api: Api) -> None:
    ids = api.ok("POST", "/v1/deployments/hello/bulk_rpc/", [{"n": 1}, {"n": 2}])
    answer = api.call("POST", "/v1/executions/bulk", ids, headers={"Prefer": "wait=9999"})
    assert answer.headers["Preference-Applied"] == "wait=900"
    assert api.services.state.calls[-1] == ("get_bulk", (tuple(ids), 900.0))
    assert "Preference-Applied" not in api.call("POST", "/v1/executions/bulk", ids).headers
    assert api.ok("POST", "/v1/executions/bulk", [], headers={"Prefer": "wait=1"}) == []


def test_unknown_ids_of_a_bulk_read_are_listed(api: Api) -> None:
    known = api.ok("POST", "/v1/deployments/hello/rpc/")
    unknown = str(uuid.uuid4())
    assert unknown in api.refused(404, "POST", "/v1/executions/bulk", [known, unknown])["message"]
    problem = api.refused(404, "POST", "/v1/executions/bulk", [known, "x'; DROP TABLE", "\0"])
    assert "DROP TABLE" in problem["message"]
    bad = api.refused(400, "POST", "/v1/executions/bulk", [known, 5, None])
    assert [error["field"] for error in bad["errors"]] == ["[1]", "[2]"]
    api.refused(413, "POST", "/v1/executions/bulk", [known] * 20_001)


def test_cancelling_answers_the_record_and_a_second_time_a_409(api: Api) -> None:
    api.deploy("forever", HELLO + "# never ends\n")
    run = api.ok("POST", "/v1/deployments/forever/rpc/")
    record = api.ok("DELETE", f"/v1/executions/{run}")
    assert (record["status"], record["reason"], record["output"]) == ("Cancelled", "cancelled", "Cancelled by admin.")
    assert api.refused(409, "DELETE", f"/v1/executions/{run}")["error_code"] == "already_ended"


def test_logs_are_plain_text_whatever_is_in_them(api: Api) -> None:
    run = api.ok("POST", "/v1/deployments/hello/rpc/")
    answer = api.call("GET", f"/v1/executions/{run}/logs")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.data == b"first line\nsecond line \\ud800\n"
    followed = api.call("GET", f"/v1/executions/{run}/logs?follow=true", buffered=True)
    assert followed.data == b"first line\nsecond line\n"
    assert followed.headers.get("Content-Length") is None
    api.refused(400, "GET", f"/v1/executions/{run}/logs?follow=maybe")
    for query in ("", "?follow=True"):
        api.refused(404, "GET", f"/v1/executions/{uuid.uuid4()}/logs{query}")


def test_half_a_surrogate_pair_in_an_error_is_escaped(api: Api) -> None:
    api.deploy("odd", "def main(args, context):\n    raise ValueError(chr(0xD800) + '<script>')\n")
    run = api.ok("POST", "/v1/deployments/odd/rpc/")
    answer = api.call("GET", f"/v1/executions/{run}")
    assert b"\\ud800<script>" in answer.data
    assert answer.json is not None
    assert answer.json["error"]["message"] == "\ud800<script>"


def test_who_is_told_of_an_end_and_with_which_secret(api: Api) -> None:
    uuid = api.ok("POST", "/v1/deployments/hello/rpc/", headers={"Callback-Url": "https://example.com/x"})
    assert api.last[2] == RunOptions(callback="https://example.com/x")
    log = api.ok("GET", f"/v1/executions/{uuid}/callbacks")
    assert (log["origin"], log["status"]) == ("https://example.com", "delivered")
    assert [each["error"] for each in log["tries"]] == ["no answer within 10 s", None]
    assert api.ok("GET", "/v1/tokens/callback-secret") == {"secret": "whsec_admin"}
