"""/metrics on the wire."""

from __future__ import annotations

from tests.http_api import Api
from tests.unit.api.test_metrics import Figures


def test_answers_are_timed_by_the_name_of_their_route() -> None:
    api = Api()
    api.deploy()
    for _ in range(2):
        api.call("GET", "/v1/deployments/hello")
    api.call("GET", "/v1/nowhere/" + "x" * 50)
    api.call("BREW", "/v1/nowhere")
    answer = api.call("GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = Figures(answer.text)
    assert found("faaspot_http_seconds_count", method="GET", route="deployments.get_deployment", status="200") == 2
    assert found("faaspot_http_seconds_count", method="GET", route="(none)", status="404") == 1
    assert found("faaspot_http_seconds_count", method="other", route="(none)", status="404") == 1


def test_a_token_that_may_not_watch_is_refused() -> None:
    api = Api()
    made = api.ok("PUT", "/v1/tokens/", {"name": "ci", "role": "deployer"})
    api.refused(403, "GET", "/metrics", token=made["token"])
    watch = api.ok("PUT", "/v1/tokens/", {"name": "watch", "role": "monitor"})
    assert api.call("GET", "/metrics", token=watch["token"]).status_code == 200
    api.refused(401, "GET", "/metrics", token=None)
