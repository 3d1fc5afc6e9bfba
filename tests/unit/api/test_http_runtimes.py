"""The routes of runtimes, over fake services."""

from __future__ import annotations

from typing import Any

import pytest

from tests.http_api import Api


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.mark.parametrize("prefix", ["/v1", "/api"])
def test_every_route_answers_200_with_json_under_both_prefixes(api: Api, prefix: str) -> None:
    made = api.ok("PUT", f"{prefix}/runtimes/", {"name": "strict", "type": "sandbox"})
    assert made == {
        "name": "strict", "type": "sandbox", "config": {}, "wraps": None, "lazy": True, "external": False,
        "status": "undeployed", "error": None, "users": [],
    }  # fmt: skip
    assert [each["name"] for each in api.ok("GET", f"{prefix}/runtimes")] == ["sandbox", "strict"]
    assert api.ok("POST", f"{prefix}/runtimes/strict/deploy")["status"] == "deploying"
    assert api.ok("GET", f"{prefix}/runtimes/strict/")["name"] == "strict"
    assert api.ok("POST", f"{prefix}/runtimes/strict/undeploy/")["status"] == "undeploying"
    assert api.ok("DELETE", f"{prefix}/runtimes/strict") == {"name": "strict"}


def test_a_record_can_be_sent_back_as_a_definition(api: Api) -> None:
    said = {"name": "theirs", "type": "docker", "config": {"container": "web"}, "external": True, "wraps": None}
    api.ok("PUT", "/v1/runtimes/", said)
    assert api.ok("GET", "/v1/runtimes/theirs")["config"] == {"container": "web"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"type": "sandbox"}, "name"),
        ({"name": "x"}, "type"),
        ({"name": "x", "type": None}, "type"),
        ({"name": "x", "type": "sandbox", "config": []}, "config"),
        ({"name": "x", "type": "sandbox", "lazy": "yes"}, "lazy"),
        ({"name": "x", "type": "sandbox", "external": 1}, "external"),
        ({"name": "x", "type": "sandbox", "wraps": {}}, "wraps"),
        ({"name": "x", "type": "sandbox", "surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_field_is_named(api: Api, body: dict[str, Any], field: str) -> None:
    problem = api.refused(400, "PUT", "/v1/runtimes/", body)
    assert any(error["field"].startswith(field) for error in problem["errors"]), problem


def test_what_is_not_there_or_never_can_be_is_404(api: Api) -> None:
    for path in ("nothing", "-rf", "a%2fb", "x" * 64):
        assert api.refused(404, "GET", f"/v1/runtimes/{path}")["error_code"] == "not_found"
        assert api.refused(404, "POST", f"/v1/runtimes/{path}/deploy")["error_code"] == "not_found"


def test_form_fields_and_an_empty_body_are_taken_as_everywhere(api: Api) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert api.ok("PUT", "/v1/runtimes/", raw=b"name=f&type=sandbox&lazy=false", headers=form)["lazy"] is False
    assert api.ok("POST", "/v1/runtimes/f/deploy", raw=b"")["name"] == "f"
