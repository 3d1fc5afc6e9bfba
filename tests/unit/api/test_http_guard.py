"""B13: no route is open by accident. The list of routes is the url map itself."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from werkzeug.routing import Rule

from tests.fake_services import ADMIN_TOKEN
from tests.http_api import Api

OPEN = {"health.healthz", "health.readyz", "openapi.openapi_json"}
UUID = "00000000-0000-0000-0000-000000000000"
VALUES = {"name": "hello", "uuid": UUID, "ip": "127.0.0.1", "number": 1, "application": "x", "digest": "0" * 64}


def rules() -> Iterator[tuple[str, Rule]]:
    for rule in Api().app.url_map.iter_rules():
        for method in sorted(rule.methods or ()):
            yield method, rule


def address(api: Api, rule: Rule) -> str:
    _, path = rule.build({name: VALUES[name] for name in rule.arguments}) or ("", "")
    assert path
    return path


ALL = [pytest.param(method, rule.rule, id=f"{method} {rule.rule}") for method, rule in rules()]
HEADERS = {
    "none": None,
    "empty": "",
    "wrong": "Token wrong",
    "no scheme": ADMIN_TOKEN,
    "another scheme": f"Digest {ADMIN_TOKEN}",
    "token of nobody": "Token ",
    "basic of nobody": "Basic " + base64.b64encode(b"admin:wrong").decode(),
    "basic with another's name": "Basic " + base64.b64encode(f"bob:{ADMIN_TOKEN}".encode()).decode(),
    "basic without a password": "Basic " + base64.b64encode(b"admin").decode(),
    "no base64": "Basic !!!!",
    "not UTF-8": "Basic " + base64.b64encode(b"\xff:\xff").decode(),
    "odd characters": "Token \xff\xfe",
}


@pytest.fixture(scope="module")
def api() -> Api:
    return Api()


def test_the_url_map_has_all_the_wires_routes(api: Api) -> None:
    assert len(ALL) > 150


@pytest.mark.parametrize(("method", "template"), ALL)
def test_every_route_needs_a_good_token(api: Api, method: str, template: str) -> None:
    rule = next(
        rule for rule in api.app.url_map.iter_rules() if rule.rule == template and method in (rule.methods or ())
    )
    path = address(api, rule)
    bodies = set()
    for header in HEADERS.values():
        headers = {} if header is None else {"Authorization": header}
        answer = api.call(method, path, token=None, headers=headers)
        if rule.endpoint in OPEN:
            assert answer.status_code == 200
            continue
        assert answer.status_code == 401, (header, answer.text)
        assert answer.headers["WWW-Authenticate"] == 'Token realm="faaspot"'
        bodies.add(answer.data)
    assert len(bodies) <= 1, "the body tells what was wrong"
    assert not api.services.state.calls, "a service was asked without a token"


@pytest.mark.parametrize("path", ["/nowhere", "/v1/nowhere", "/v1/deployments/x/y/z", "/static/app.js"])
def test_what_is_nowhere_is_401_without_a_token(api: Api, path: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        assert api.call(method, path, token=None).status_code == 401


def test_the_open_routes_are_these_three(api: Api) -> None:
    answered = {
        rule.endpoint
        for method, rule in rules()
        if method == "GET" and api.call("GET", address(api, rule), token=None).status_code != 401
    }
    assert answered == OPEN


def test_the_role_reaches_the_services(api: Api) -> None:
    made = api.ok("PUT", "/v1/tokens/", {"name": "ci", "role": "invoker"})
    assert api.refused(403, "GET", "/v1/tokens/", token=made["token"])["error_code"] == "forbidden"
    assert api.refused(403, "PUT", "/v1/tokens/", {"name": "x", "role": "admin"}, token=made["token"])
