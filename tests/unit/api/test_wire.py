"""Each quirk of the published clients, by the number of its rule."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from faaspot_api.http import wire
from tests.fake_services import ADMIN_TOKEN
from tests.http_api import HELLO, Api


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.mark.parametrize("prefix", ["/v1", "/api"])
@pytest.mark.parametrize("word", ["deployments", "functions"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_w4_w8_every_word_and_prefix_with_and_without_slash_and_no_redirect(
    api: Api, prefix: str, word: str, slash: str
) -> None:
    base = f"{prefix}/{word}"
    api.ok("PUT", f"{base}{slash}", {"name": "a", "code": HELLO})
    assert [one["name"] for one in api.ok("GET", f"{base}{slash}")] == ["a"]
    assert api.ok("GET", f"{base}/a{slash}")["name"] == "a"
    assert set(api.ok("PATCH", f"{base}/a{slash}", {"code": HELLO})) == {"uuid"}
    run = api.ok("POST", f"{base}/a/rpc{slash}", {"n": 1})
    assert api.ok("GET", f"{prefix}/sync/{word}/a/rpc{slash}?n=1") == {"n": "1"}
    assert len(api.ok("POST", f"{base}/a/bulk_rpc{slash}", [{}])) == 1
    assert api.ok("GET", f"{prefix}/executions/{run}{slash}")["uuid"] == run
    assert len(api.ok("POST", f"{prefix}/executions/bulk{slash}", [run])) == 1
    assert set(api.ok("DELETE", f"{base}/a{slash}")) == {"uuid"}


@pytest.mark.parametrize("word", ["spots", "nodes"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_w4_w8_so_for_spots(api: Api, word: str, slash: str) -> None:
    assert len(api.ok("GET", f"/api/{word}{slash}")) == 1
    assert isinstance(api.ok("PUT", f"/api/{word}{slash}"), str)
    assert api.ok("GET", f"/api/{word}/127.0.0.2{slash}")["ip"] == "127.0.0.2"
    assert api.ok("GET", f"/api/{word}/replace/127.0.0.2{slash}")["uuid"]
    assert isinstance(api.ok("DELETE", f"/api/{word}/127.0.0.2{slash}"), str)
    assert isinstance(api.ok("DELETE", f"/api/{word}{slash}"), str)


@pytest.mark.parametrize("application", ["None", "shop", "default", "hello"])
def test_w4_the_application_segment_is_taken_and_means_nothing(api: Api, application: str) -> None:
    api.ok("PUT", f"/v1/functions/{application}/", {"name": "hi.py", "code": HELLO})
    here = f"/v1/functions/{application}/hi.py"
    assert api.ok("GET", here)["name"] == "hi.py"
    assert api.ok("GET", f"/v1/sync/functions/{application}/hi.py/rpc/?a=1") == {"a": "1"}
    assert isinstance(api.ok("POST", f"{here}/rpc/"), str)
    assert len(api.ok("POST", f"{here}/bulk_rpc/", [{}, {}])) == 2
    listed = api.ok("GET", f"/v1/functions/{application}/", headers={"Content-Type": "application/json"})
    assert [one["name"] for one in listed] == ["hi.py"]
    assert api.ok("DELETE", here)["uuid"]


def test_w4_an_applications_list_is_never_given_for_a_name_that_is_only_unknown(api: Api) -> None:
    api.refused(404, "GET", "/v1/functions/unknown/")
    api.refused(404, "GET", "/v1/functions/unknown", headers={"Content-Type": "application/json"})
    api.refused(404, "GET", "/v1/deployments/unknown/", headers={"Content-Type": "application/json"})
    api.deploy("shop")
    shown = api.ok("GET", "/v1/functions/shop/", headers={"Content-Type": "application/json"})
    assert shown["name"] == "shop"


def test_w4_nodes_of_an_application(api: Api) -> None:
    marked = {"Content-Type": "application/json"}
    assert len(api.ok("GET", "/v1/nodes/shop/", headers=marked)) == 1
    assert isinstance(api.ok("PUT", "/v1/nodes/shop/", {"region": None, "provider": None}), str)
    assert api.ok("PATCH", "/v1/nodes/shop/", {"min_workers": "1", "max_workers": "2"})
    assert api.ok("GET", "/v1/nodes/shop/127.0.0.2")["ip"] == "127.0.0.2"
    assert api.ok("GET", "/v1/nodes/shop/replace/127.0.0.2")["uuid"]
    assert isinstance(api.ok("DELETE", "/v1/nodes/shop/127.0.0.2"), str)
    assert isinstance(api.ok("DELETE", "/v1/nodes/shop/", headers=marked), str)
    api.refused(404, "DELETE", "/v1/nodes/127.0.0.l")
    api.refused(404, "DELETE", "/v1/nodes/127.0.0.l/")


def test_w4_our_own_words_are_no_names_behind_an_application(api: Api) -> None:
    api.deploy("rpc")
    api.deploy("hello")
    assert api.refused(405, "DELETE", "/v1/functions/hello/rpc")["error_code"] == "method_not_allowed"
    api.refused(405, "GET", "/v1/functions/hello/bulk_rpc")
    api.refused(405, "DELETE", "/v1/nodes/replace/127.0.0.1")
    assert api.ok("GET", "/v1/functions/rpc")["name"] == "rpc"
    assert api.ok("GET", "/v1/functions/rpc/rpc")


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", None])
@pytest.mark.parametrize("body", [b"", b"  \n"])
def test_w6_an_empty_body_means_nothing_said(api: Api, content_type: str | None, body: bytes) -> None:
    api.deploy()
    headers = {"Content-Type": content_type} if content_type else {}
    assert isinstance(api.ok("PUT", "/api/spots/", raw=body, headers=headers), str)
    assert isinstance(api.ok("POST", "/api/deployments/hello/rpc/", raw=body, headers=headers), str)
    assert api.last == ("hello", "{}")
    assert api.ok("POST", "/v1/sync/deployments/hello/rpc/", raw=body, headers=headers) == {}
    assert api.ok("GET", "/api/deployments/hello", headers=headers)
    assert api.ok("DELETE", "/api/deployments/hello", raw=body, headers=headers)


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def test_w7_json_that_calls_itself_a_form(api: Api) -> None:
    assert isinstance(api.ok("PATCH", "/api/spots/", raw=b'{"refresh_ip": "all"}', headers=FORM), str)
    api.deploy()
    assert api.ok("POST", "/v1/sync/functions/hello/rpc/", raw=b' {"a": [1, "%41+"]}', headers=FORM) == {
        "a": [1, "%41+"]
    }
    assert len(api.ok("POST", "/api/deployments/hello/bulk_rpc/", raw=b"[{}, {}]", headers=FORM)) == 2


def test_w7_a_true_form(api: Api) -> None:
    assert isinstance(api.ok("PATCH", "/api/spots/", raw=b"refresh_ip=all", headers=FORM), str)
    body = f"name=formed&code={quote(HELLO)}&timeout=5&sdist=true".encode()
    api.ok("PUT", "/api/deployments/", raw=body, headers=FORM)
    settings = api.ok("GET", "/api/deployments/formed")["settings"]
    assert (settings["timeout"], settings["sdist"]) == (5.0, True)
    form = "name=user+1&l=1&l=2&u=Grüße".encode()
    assert api.ok("POST", "/v1/sync/functions/formed/rpc/", raw=form, headers=FORM) == {
        "name": "user 1",
        "l": ["1", "2"],
        "u": "Grüße",
    }


@pytest.mark.parametrize(
    "header",
    [
        f"Token {ADMIN_TOKEN}",
        f"token  {ADMIN_TOKEN} ",
        f"Bearer {ADMIN_TOKEN}",
        f"Basic Ym9iOnA_Pnd-fn4=, Token {ADMIN_TOKEN}",
        f"Token {ADMIN_TOKEN},Basic Ym9iOnA_Pnd-fn4=",
        "Basic YWRtaW46ZmFzX3Rlc3QtYWRtaW4tdG9rZW4=",
        "Basic YWRtaW46ZmFzX3Rlc3QtYWRtaW4tdG9rZW4",
        "basic b'YWRtaW46ZmFzX3Rlc3QtYWRtaW4tdG9rZW4='",
    ],
)
def test_w9_each_form_of_the_header_lets_in(api: Api, header: str) -> None:
    assert api.ok("GET", "/v1/deployments/", headers={"Authorization": header}) == []


def test_w9_url_safe_base64_is_read_and_standard_too() -> None:
    assert wire.credentials("Basic Ym9iOnA_Pnd-fn4=") == ("bob", "p?>w~~~")
    assert wire.credentials("Basic Ym9iOnA/Pnd+fn4=") == ("bob", "p?>w~~~")
    assert wire.credentials("Basic b'Ym9iOnA_Pnd-fn4='") == ("bob", "p?>w~~~")


def test_w11_encoded_and_raw_texts_mean_the_same(api: Api) -> None:
    raw = {"code": HELLO + "# 100%41\n", "requirements": "six==1.16\n", "context": 'key = "a b"\n'}
    api.ok("PUT", "/v1/functions/", {"name": "raw", **raw})
    first = api.last[1]
    api.ok("PUT", "/v1/functions/", {"name": "encoded", **{key: quote(text) for key, text in raw.items()}})
    assert api.last[1] == first
    assert (first.code, first.requirements, first.context) == tuple(raw.values())
    problem = api.refused(400, "PUT", "/v1/functions/", {"name": "x", "code": "%FF"})
    assert problem["errors"] == [{"field": "code", "message": "is percent-encoded, but not of UTF-8 text"}]


def test_w12_w14_an_id_is_a_json_string_of_36_characters(api: Api) -> None:
    build = api.deploy()
    assert (len(build), build.count("-")) == (36, 4)
    api.call("POST", "/v1/functions/hello/rpc/").data.decode().strip('"')


def test_w15_code_is_encoded_in_the_answer(api: Api) -> None:
    api.deploy()
    assert api.ok("GET", "/api/deployments/hello")["code"] == quote(HELLO)


def test_w16_w17_update_and_delete_answer_an_object_with_the_id(api: Api) -> None:
    api.deploy()
    for said in (
        api.ok("PATCH", "/api/deployments/hello", {"code": HELLO}),
        api.ok("DELETE", "/api/deployments/hello"),
    ):
        assert list(said) == ["uuid"]


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_w19_w20_the_query_is_the_args(api: Api, method: str) -> None:
    api.deploy()
    assert isinstance(api.ok(method, "/api/deployments/hello/rpc/?a=b&c=%C3%BC+d"), str)
    assert json.loads(api.last[1]) == {"a": "b", "c": "ü d"}
    assert api.ok(method, "/api/sync/deployments/hello/rpc/?a=b&a=c&e=") == {"a": ["b", "c"], "e": ""}


def test_w21_both_bulk_forms(api: Api) -> None:
    api.deploy()
    runs = [{"a": 1, "b": [1, 2]}, {"a": "x"}]
    first = api.ok("POST", "/api/deployments/hello/bulk_rpc/", {"values": json.dumps(runs)})
    second = api.ok("POST", "/v1/functions/hello/bulk_rpc/", runs)
    for ids in (first, second):
        assert [api.ok("GET", f"/v1/executions/{one}")["args"] for one in ids] == runs


def test_w22_include_completed_with_a_capital(api: Api) -> None:
    api.deploy("hello")
    api.deploy("stays", HELLO + "# never ends\n")
    stays = api.ok("POST", "/api/deployments/stays/rpc/")
    listed = api.ok("GET", "/api/executions/?include_completed=False&deployment=stays")
    assert [one["uuid"] for one in listed] == [stays]
    assert api.ok("GET", "/api/executions/") == listed
    assert len(api.ok("GET", "/api/executions/?include_completed=True")) == 3
    api.refused(400, "GET", "/api/executions/?include_completed=perhaps")


def test_w23_the_record(api: Api) -> None:
    build = api.deploy()
    record = api.ok("GET", f"/api/executions/{build}")
    assert record["created"] == "2026-11-21 00:00:00.003000+00:00"
    assert (record["name"], record["status"], record["output"]) == ("hello", "Success", "version 1 is ready")


def test_w24_both_bulk_reads(api: Api) -> None:
    api.deploy()
    ids = api.ok("POST", "/v1/functions/hello/bulk_rpc/", [{}, {}])
    for body in ({"tasks": json.dumps(ids)}, ids, {"tasks": ids}):
        assert [one["uuid"] for one in api.ok("POST", "/api/executions/bulk", body)] == ids


def test_w29_numbers_as_text(api: Api) -> None:
    said = api.ok("PATCH", "/api/spots/", {"min_workers": "2", "max_workers": "10"})
    assert (said["min_workers"], said["max_workers"], said["applied"]) == (2, 10, True)
    for bad in ({"min_workers": "x", "max_workers": "1"}, {"min_workers": -1, "max_workers": "1"}):
        assert api.refused(400, "PATCH", "/api/spots/", bad)["errors"][0]["field"] == "min_workers"
    api.refused(400, "PATCH", "/api/spots/", {"min_workers": "5", "max_workers": "4"})


def test_w31_a_failures_output_is_one_line(api: Api) -> None:
    api.deploy(code="def main(args, context):\n    raise KeyError('first\\nsecond')\n")
    run = api.ok("POST", "/api/deployments/hello/rpc/")
    record = api.ok("GET", f"/api/executions/{run}")
    assert record["status"] == "Failure"
    assert record["output"].startswith("KeyError: ")
    assert "\n" not in record["output"]
    assert record["error"]["type"] == "KeyError"
