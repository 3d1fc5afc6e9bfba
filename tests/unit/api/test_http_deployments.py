"""Deployments, spots, tokens, health: what is said is checked, what is secret is not shown."""

from __future__ import annotations

from typing import Any

import pytest

from faaspot_api.domain.model import DeploymentChange, Settings
from tests.http_api import HELLO, Api


@pytest.fixture
def api() -> Api:
    return Api()


def test_create_hands_over_exactly_what_was_said(api: Api) -> None:
    api.deploy("a")
    assert api.last == ("a", DeploymentChange(code=HELLO))
    said = {"timeout": 5, "memory": 128, "pids": 3, "tmp": 9, "network": "none", "python": "3.12", "runtime": "sandbox"}
    more = {"sdist": False, "description": "x%41"}
    api.deploy("b", requirements="", context={"k": {"deep": [1]}}, **said, **more)
    expected = DeploymentChange(
        code=HELLO, requirements="", context={"k": {"deep": [1]}}, settings=Settings(**said, **more)
    )
    assert api.last == ("b", expected)


def test_update_hands_over_what_was_said_and_a_new_name(api: Api) -> None:
    api.deploy("a")
    api.ok("PATCH", "/v1/deployments/a", {"name": "b", "code": HELLO, "memory": 64})
    assert api.last == ("a", DeploymentChange(code=HELLO, name="b", settings=Settings(memory=64)))
    assert "Nothing to change" in api.refused(400, "PATCH", "/v1/deployments/b", {})["message"]


WRONG: dict[str, list[Any]] = {
    "name": [None, 5, [], {}, True, "", "../x", "a/b", ".", "-rf", "a\0b", "\u0430", "\u202egnp", "x" * 64,
             "a\nb", "a "],
    "code": [None, 5, [], {}],
    "requirements": [None, 5, []],
    "context": [None, 5, [1], True],
    "timeout": ["x", None, True, [], "5"],
    "memory": ["x", None, 1.5, "256", True],
    "network": ["all", 5, None],
    "python": [3.12, None],
    "runtime": [5, None],
    "sdist": ["maybe", 7, None, "true"],
    "description": [5, None],
    "surprise": [1, None],
    "__class__": [1],
}  # fmt: skip


@pytest.mark.parametrize("field", WRONG)
def test_b2_b3_a_wrong_field_is_a_400_that_names_it(api: Api, field: str) -> None:
    api.deploy("there")
    for value in WRONG[field]:
        for method, path in (("PUT", "/v1/deployments/"), ("PATCH", "/v1/deployments/there")):
            problem = api.refused(400, method, path, {"name": "new", "code": HELLO, field: value})
            assert [error["field"] for error in problem["errors"]] == [field], (value, problem)
            assert field in problem["message"]
    assert [one["name"] for one in api.ok("GET", "/v1/deployments/")] == ["there"]


def test_every_bad_field_is_named_at_once(api: Api) -> None:
    problem = api.refused(400, "PUT", "/v1/deployments/", {"code": 5, "x": 1, "timeout": "y"})
    assert {error["field"] for error in problem["errors"]} == {"name", "code", "x", "timeout"}


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"5", b"\xef\xbb\xbf{}", b'{"name": "a", "name": "b"}'])
@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/v1/deployments/"), ("PATCH", "/v1/deployments/x"), ("PUT", "/v1/tokens/")]
)
def test_b1_a_body_that_is_no_object_is_a_400(api: Api, method: str, path: str, body: bytes) -> None:
    assert api.refused(400, method, path, raw=body)["errors"][0]["field"] == "body"


def test_a_context_shows_its_keys_and_never_its_values(api: Api) -> None:
    api.deploy("a", context={"KEY": "hush-hush"})
    api.deploy("b", context="OTHER = hush-hush\n")
    for path, key in (
        ("/v1/deployments/a", "KEY"),
        ("/v1/deployments/b", "OTHER"),
        ("/v1/deployments/b/versions/1", "OTHER"),
    ):
        answer = api.call("GET", path)
        assert answer.json is not None
        assert answer.json["context_keys"] == [key]
        assert "hush" not in answer.text
    assert "hush" not in api.call("GET", "/v1/deployments/").text


def test_versions_and_rollback(api: Api) -> None:
    api.deploy("a")
    api.ok("PATCH", "/v1/deployments/a", {"code": HELLO + "# two\n"})
    assert [one["version"] for one in api.ok("GET", "/v1/deployments/a/versions")] == [1, 2]
    assert "code" not in api.ok("GET", "/v1/deployments/a/versions/")[0]
    assert api.ok("GET", "/v1/deployments/a/versions/2")["code"].endswith("%23%20two%0A")
    assert api.ok("POST", "/v1/deployments/a/rollback", {"version": 1})["uuid"]
    assert api.ok("GET", "/v1/deployments/a")["version"] == 1
    api.refused(404, "POST", "/v1/deployments/a/rollback", {"version": 3})
    for bad in ({}, {"version": "1"}, {"version": 0}, {"version": True}, {"version": 2**40}):
        assert api.refused(400, "POST", "/v1/deployments/a/rollback", bad)["errors"][0]["field"] == "version"


def test_a_second_create_is_a_409(api: Api) -> None:
    api.deploy("a")
    assert api.refused(409, "PUT", "/v1/deployments/", {"name": "a", "code": HELLO})["error_code"] == "exists"


# ---------------------------------------------------------------- spots


def test_spots_have_an_address_and_a_moment(api: Api) -> None:
    (spot,) = api.ok("GET", "/v1/spots/")
    assert spot["ip"] == "127.0.0.1"
    assert spot["created"].endswith("+00:00")
    api.refused(404, "GET", "/v1/spots/127.0.0.9")
    api.refused(404, "DELETE", "/v1/spots/127.0.0.9")
    api.refused(404, "GET", "/v1/spots/replace/somewhere")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"min_workers": 1, "max_workers": 2, "refresh_ip": "all"},
        {"min_workers": None, "max_workers": 1},
        {"refresh_ip": 5},
        {"min_workers": 1.5, "max_workers": 2},
        {"workers": 1},
    ],
)
def test_an_update_of_spots_says_one_thing(api: Api, body: Any) -> None:
    assert api.refused(400, "PATCH", "/v1/spots/", body)["error_code"] == "invalid"


def test_one_bound_of_workers_may_be_said_alone(api: Api) -> None:
    api.ok("PATCH", "/v1/spots/", {"min_workers": 1})
    assert api.last == (1, None)


def test_refreshing_needs_a_spot_that_is_there(api: Api) -> None:
    assert isinstance(api.ok("PATCH", "/v1/spots/", {"refresh_ip": "127.0.0.1"}), str)
    for unknown in ("127.0.0.9", "nowhere", "", "\0"):
        api.refused(404, "PATCH", "/v1/spots/", {"refresh_ip": unknown})


# ---------------------------------------------------------------- tokens, health


def test_a_tokens_text_is_shown_once(api: Api) -> None:
    made = api.ok("PUT", "/v1/tokens/", {"name": "ci", "role": "deployer", "spots": ["127.0.0.1"]})
    assert made["token"].startswith("fas_")
    listed = api.call("GET", "/v1/tokens/")
    assert made["token"] not in listed.text
    assert [one["name"] for one in listed.json or ()] == ["admin", "ci"]
    assert api.ok("GET", "/v1/deployments/", token=made["token"]) == []
    assert api.ok("DELETE", "/v1/tokens/ci") == {"name": "ci"}
    api.refused(401, "GET", "/v1/deployments/", token=made["token"])
    api.refused(404, "DELETE", "/v1/tokens/ci")
    api.refused(409, "DELETE", "/v1/tokens/admin")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "x", "role": "root"}, "role"),
        ({"name": "x"}, "role"),
        ({"name": "a b", "role": "admin"}, "name"),
        ({"name": "x", "role": "admin", "spots": "127.0.0.1"}, "spots"),
        ({"name": "x", "role": "admin", "spots": ["127.0.0.1", 5]}, "spots[1]"),
    ],
)
def test_a_bad_token_request_names_its_field(api: Api, body: Any, field: str) -> None:
    assert api.refused(400, "PUT", "/v1/tokens/", body)["errors"][0]["field"] == field


def test_health_is_open_and_readiness_names_what_is_missing(api: Api) -> None:
    assert api.ok("GET", "/healthz", token=None) == {"status": "ok"}
    assert api.ok("GET", "/readyz", token=None)["status"] == "ok"
    api.services.state.parts["queue"] = "Redis does not answer"
    problem = api.refused(503, "GET", "/readyz", token=None)
    assert problem["parts"] == {"database": "ok", "queue": "Redis does not answer"}
    assert "queue" in problem["message"]
    assert api.ok("GET", "/healthz", token=None)
