"""Running: in the background, awaited, by preference, in bulk."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from faaspot_api.domain.model import RunOptions
from tests.http_api import HELLO, Api

RPC = "/v1/deployments/hello/rpc/"
SYNC = "/v1/sync/deployments/hello/rpc/"


@pytest.fixture
def api() -> Api:
    made = Api()
    made.deploy()
    return made


def prefer(value: str) -> dict[str, str]:
    return {"Prefer": value}


def ends(api: Api, **fields: Any) -> None:
    """Make the next awaited run end so."""
    api.services.state.next_end = fields


def test_a_background_run_answers_its_id_in_body_and_header(api: Api) -> None:
    answer = api.call("POST", RPC, {"n": 1})
    assert answer.status_code == 200
    assert answer.json == answer.headers["Execution-Id"]


def test_args_reach_the_service_as_the_text_that_was_sent(api: Api) -> None:
    raw = '{ "ü": [1.0, 1e2],\n "s": "\\u00e9" }'.encode()
    api.ok("POST", RPC, raw=raw)
    assert api.last == ("hello", raw.decode())


def test_the_output_leaves_as_the_text_that_the_service_gave(api: Api) -> None:
    ends(api, output='{"a":  1.0e2, "ü":null}')
    answer = api.call("POST", SYNC, {})
    assert answer.data.decode() == '{"a":  1.0e2, "ü":null}'
    assert answer.mimetype == "application/json"
    assert len(answer.headers["Execution-Id"]) == 36


def test_no_output_is_null(api: Api) -> None:
    ends(api, output=None)
    assert api.call("POST", SYNC).data == b"null"


def test_body_and_query_are_both_args_but_say_a_thing_once(api: Api) -> None:
    assert api.ok("POST", f"{SYNC}?a=1", {"b": 2}) == {"b": 2, "a": "1"}
    assert api.refused(400, "POST", f"{SYNC}?a=1", {"a": 2})["errors"][0]["field"] == "a"
    assert api.ok("PUT", f"{SYNC}?a=1", {"b": [2]}) == {"b": [2], "a": "1"}


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"null", b"1", b"{", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"a=b"])
@pytest.mark.parametrize("path", [RPC, SYNC])
def test_args_that_are_no_json_object_are_a_400_and_run_nothing(api: Api, path: str, body: bytes) -> None:
    before = len(api.services.state.executions)
    problem = api.refused(400, "POST", path, raw=body)
    assert (problem["error_code"], problem["errors"][0]["field"]) == ("invalid", "body")
    assert len(api.services.state.executions) == before


def test_args_that_are_too_long_for_a_record_are_kept_apart(api: Api) -> None:
    limit = 8 * 1024 * 1024
    just = {"s": "x" * (limit - len('{"s": ""}'))}
    assert api.ok("POST", RPC, just)
    over = {"s": just["s"] + "x"}
    wide = json.dumps({"s": "é" * (limit // 2)}, ensure_ascii=False).encode()
    invalid = b'{"looked into": by the run alone' + b" " * (9 << 20)
    for body in (json.dumps(over).encode(), wide, invalid):
        run = api.ok("POST", RPC, raw=body)
        api.ok("POST", SYNC, raw=body)
        kept = [said for what, said in api.services.state.calls if what == "take_args"][-2:]
        assert kept == [("hello", len(body))] * 2
        record = api.ok("GET", f"/v1/executions/{run}")
        assert (record["args"], record["args_size"]) == (None, len(body))


def test_a_chunked_body_may_be_as_long(api: Api) -> None:
    body = b'{"s": "' + b"x" * (20 << 20) + b'"}'
    for raw, answer in ((body, 200), (b"[" + body, 400), (b'{"n": 1}', 200)):
        said = api.call(
            "POST",
            RPC,
            headers={"Transfer-Encoding": "chunked"},
            environ_overrides={"wsgi.input_terminated": True, "wsgi.input": io.BytesIO(raw)},
        )
        assert said.status_code == answer, said.text
    assert [said for what, said in api.services.state.calls if what == "take_args"] == [("hello", len(body))]


def test_what_is_too_long_must_be_json_alone(api: Api) -> None:
    pad = b" " * (9 << 20)
    assert "JSON object" in api.refused(400, "POST", RPC, raw=b"[]" + pad)["message"]
    assert api.refused(400, "POST", f"{RPC}?a=1", raw=b"{}" + pad)["errors"][0]["field"] == "query"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert api.refused(413, "POST", RPC, raw=b"a=" + pad, headers=form)["errors"][0]["field"] == "args"


def test_items_of_a_bulk_are_never_too_long_for_their_records(api: Api) -> None:
    over = {"s": "x" * (8 * 1024 * 1024)}
    assert "[1]" in api.refused(413, "POST", "/v1/deployments/hello/bulk_rpc/", [{}, over])["message"]


def test_an_unknown_deployment_is_a_404(api: Api) -> None:
    for path in ("/v1/deployments/x/rpc/", "/v1/sync/deployments/x/rpc/"):
        assert api.refused(404, "POST", path, {})["error_code"] == "not_found"
    api.refused(404, "POST", "/v1/deployments/x/bulk_rpc/", [{}])


ERROR = {"type": "ValueError", "message": "no luck\nsecond line", "traceback": "Traceback ...\nValueError: no luck"}


@pytest.mark.parametrize(
    ("end", "status", "code", "message"),
    [
        ({"reason": "error", "error": ERROR}, 500, "error", "ValueError: no luck"),
        ({"reason": "oom", "error": {"type": "Oom", "message": "256 MB", "traceback": None}}, 500, "oom", "256 MB"),
        ({"reason": "signal", "error": None}, 500, "signal", "signal"),
        ({"reason": "limit", "error": None}, 500, "limit", "limit"),
        ({"reason": "unserialisable", "error": None}, 500, "unserialisable", "unserialisable"),
        ({"reason": "build_failed", "error": None}, 500, "build_failed", "build_failed"),
        ({"reason": "interrupted", "error": None}, 500, "interrupted", "interrupted"),
        ({"reason": "timeout", "error": None}, 504, "timeout", "timeout"),
        ({"reason": "no_spot", "error": None}, 503, "no_spot", "no_spot"),
        ({"reason": "worker_lost", "error": None}, 503, "worker_lost", "worker_lost"),
        ({"status": "Cancelled", "reason": "cancelled", "error": None}, 409, "cancelled", "cancelled"),
    ],
    ids=lambda value: value["reason"] if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("headers", [{}, prefer("wait=5")], ids=["sync", "Prefer"])
def test_what_did_not_succeed_is_an_error_with_its_reason(
    api: Api, headers: dict[str, str], end: dict[str, Any], status: int, code: str, message: str
) -> None:
    ends(api, **{"status": "Failure", "output": json.dumps(message), **end})
    answer = api.call("POST", RPC if headers else SYNC, {}, headers=headers)
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    problem = json.loads(answer.data)
    assert (problem["error_code"], problem["message"]) == (code, message)
    assert problem["execution_id"] == answer.headers["Execution-Id"]
    assert problem.get("error") == end["error"]
    assert ("Retry-After" in answer.headers) == (status == 503)


def test_a_wait_that_ends_first_is_a_504_with_the_id_to_ask_later(api: Api) -> None:
    api.deploy("forever", HELLO + "# never ends\n")
    answer = api.call("POST", "/v1/sync/deployments/forever/rpc/", {}, headers=prefer("wait=0.5"))
    assert answer.status_code == 504
    problem = json.loads(answer.data)
    assert problem["error_code"] == "wait_timeout"
    assert api.ok("GET", f"/v1/executions/{problem['execution_id']}")["status"] == "Started"
    assert api.services.state.calls[-2] == ("run_wait", ("forever", "{}", 0.5))


def test_sync_waits_as_long_as_the_service_thinks_right_unless_told(api: Api) -> None:
    api.ok("POST", SYNC, {})
    assert api.services.state.calls[-2][1][2] is None
    api.ok("POST", SYNC, {}, headers=prefer("wait=3"))
    assert api.services.state.calls[-2][1][2] == 3.0


@pytest.mark.parametrize(
    ("header", "applied"),
    [
        ("wait=10", "wait=10"),
        ('respond-async, wait="10"', "wait=10"),
        ("wait = 7 ; x=y", "wait=7"),
        ("WAIT=2", "wait=2"),
        ("wait=99999", "wait=900"),
    ],
)
def test_prefer_wait_answers_the_result_if_it_ends_in_time(api: Api, header: str, applied: str) -> None:
    answer = api.call("POST", RPC, {"n": 1}, headers=prefer(header))
    assert (answer.status_code, answer.json) == (200, {"n": 1})
    assert answer.headers["Preference-Applied"] == applied


@pytest.mark.parametrize("prefix", ["/v1", "/api"])
@pytest.mark.parametrize("header", ["wait=1", "respond-async", "handling=lenient, respond-async"])
def test_prefer_answers_202_where_it_goes_on(api: Api, prefix: str, header: str) -> None:
    api.deploy("forever", HELLO + "# never ends\n")
    answer = api.call("POST", f"{prefix}/deployments/forever/rpc/", {}, headers=prefer(header))
    assert answer.status_code == 202
    assert answer.json is not None
    assert answer.headers["Location"] == f"{prefix}/executions/{answer.json['uuid']}"
    assert answer.headers["Preference-Applied"] in header
    assert api.ok("GET", answer.headers["Location"])["uuid"] == answer.headers["Execution-Id"]


@pytest.mark.parametrize("header", ["", "wait=soon", "return=minimal", "waiting=3", "x-wait=3"])
def test_a_preference_that_we_do_not_know_changes_nothing(api: Api, header: str) -> None:
    answer = api.call("POST", RPC, {}, headers=prefer(header))
    assert answer.status_code == 200
    assert answer.json == answer.headers["Execution-Id"]
    assert "Preference-Applied" not in answer.headers


def test_one_bad_item_of_a_bulk_is_named_and_nothing_runs(api: Api) -> None:
    before = len(api.services.state.executions)
    problem = api.refused(400, "POST", "/v1/deployments/hello/bulk_rpc/", [{}, 5, {"a": 1}, []])
    assert [error["field"] for error in problem["errors"]] == ["[1]", "[3]"]
    assert len(api.services.state.executions) == before


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "values"),
        ({"tasks": []}, "tasks"),
        ({"values": "[1"}, "values"),
        ({"values": 5}, "values"),
        ({"values": "{}"}, "values"),
        ({"values": [], "more": 1}, "more"),
        ("text", "values"),
    ],
)
def test_a_bulk_that_is_no_list_is_a_400(api: Api, body: Any, field: str) -> None:
    problem = api.refused(400, "POST", "/v1/deployments/hello/bulk_rpc/", body)
    assert field in [error["field"] for error in problem["errors"]]


def test_a_bulk_of_20_000_is_taken_and_one_more_is_not(api: Api) -> None:
    taken: list[int] = []
    api.services.executions.run_bulk = lambda who, name, args, options: taken.append(len(args)) or []  # type: ignore
    api.ok("POST", "/v1/deployments/hello/bulk_rpc/", [{}] * 20_000)
    assert taken == [20_000]
    assert api.refused(413, "POST", "/v1/deployments/hello/bulk_rpc/", [{}] * 20_001)["error_code"] == "too_large"
    assert api.ok("POST", "/v1/deployments/hello/bulk_rpc/", []) == []


@pytest.mark.parametrize(
    ("method", "path", "limit"),
    [
        ("POST", RPC, 1024),
        ("POST", SYNC, 1024),
        ("PUT", "/v1/deployments/", 32),
        ("PATCH", "/v1/deployments/hello", 32),
        ("POST", "/v1/deployments/hello/bulk_rpc/", 64),
        ("POST", "/v1/executions/bulk", 64),
        ("PUT", "/v1/tokens/", 0),
        ("PATCH", "/v1/spots/", 0),
    ],
)
def test_a_length_over_the_limit_is_a_413_before_anything_is_read(api: Api, method: str, path: str, limit: int) -> None:
    answer = api.call(
        method,
        path,
        environ_overrides={"CONTENT_LENGTH": str((limit + 1) * 1024 * 1024), "wsgi.input": Unreadable()},
    )
    assert answer.status_code == 413, answer.text
    assert answer.headers["Connection"] == "close"


class Unreadable:
    """A body that must not be read."""

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("read")


def test_a_body_that_breaks_off_is_a_400(api: Api) -> None:
    answer = api.call("POST", RPC, raw=b'{"a": 1}', environ_overrides={"CONTENT_LENGTH": "100"})
    assert answer.status_code == 400
    assert "ended before its Content-Length" in answer.text


@pytest.mark.parametrize("path", ["/v1/deployments/hello/rpc/", "/v1/sync/deployments/hello/rpc/"])
def test_the_same_request_under_the_same_key_is_the_same_execution(api: Api, path: str) -> None:
    headers = {"Idempotency-Key": "order 7"}
    first = api.call("POST", path, {"a": 1}, headers=headers)
    assert api.call("POST", path, {"a": 1}, headers=headers).headers["Execution-Id"] == first.headers["Execution-Id"]
    assert api.call("POST", path, {"a": 1}).headers["Execution-Id"] != first.headers["Execution-Id"]
    problem = api.refused(422, "POST", path, {"a": 2}, headers=headers)
    assert (problem["error_code"], problem["execution_id"]) == ("idempotency_mismatch", first.headers["Execution-Id"])


def test_many_runs_under_one_key_are_the_same_runs(api: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    first = api.ok("POST", "/v1/deployments/hello/bulk_rpc/", [{"a": 1}, {"a": 2}], headers=headers)
    assert api.ok("POST", "/v1/deployments/hello/bulk_rpc/", [{"a": 1}, {"a": 2}], headers=headers) == first


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Idempotency-Key", ""),
        ("Idempotency-Key", "x" * 256),
        ("Idempotency-Key", "\u00e9"),
        ("Max-Queue-Age", "soon"),
        ("Max-Queue-Age", "-1"),
        ("Max-Queue-Age", "1e3"),
        ("Max-Queue-Age", "nan"),
    ],
)
def test_a_header_that_makes_no_sense_is_named(api: Api, name: str, value: str) -> None:
    problem = api.refused(400, "POST", "/v1/deployments/hello/rpc/", headers={name: value})
    assert problem["errors"][0]["field"] == name


def test_a_maximum_age_reaches_the_service(api: Api) -> None:
    api.ok("POST", "/v1/deployments/hello/rpc/", headers={"Max-Queue-Age": "2.5"})
    assert api.last[2] == RunOptions(max_age=2.5)
