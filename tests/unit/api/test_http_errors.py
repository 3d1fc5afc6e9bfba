"""Every error has the one shape, whoever raised it. ``UPDATE_GOLDEN=1`` renews the golden file."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from faaspot_api import errors, log
from faaspot_api.errors import ApiError, FieldError
from tests.http_api import Api

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "http_errors.json"
RUN = "00000000-0000-0000-0000-000000000001"
MADE: list[ApiError] = [
    errors.Invalid("Nothing to change."),
    errors.Invalid.fields(FieldError(field="code", message="no main", line=3), FieldError(field="name", message="bad")),
    errors.Invalid("No spot offers internet.", code="network_unavailable"),
    errors.Unauthorized(),
    errors.Forbidden("Only an admin may do this."),
    errors.NotFound("There is nothing of this name."),
    errors.Conflict("It exists already.", code="exists"),
    errors.Conflict("Its build failed.", code="deployment_not_ready", extra={"build": RUN, "reason": "build_failed"}),
    errors.Conflict("It has ended.", code="already_ended", execution_id=RUN),
    errors.TooLarge("code: is larger than 4 MB"),
    errors.Unprocessable("Another body."),
    errors.Overloaded("Too much at once.", retry_after=2),
    errors.RunFailed("no luck", execution_id=RUN, error={"type": "ValueError", "message": "no luck", "traceback": "T"}),
    errors.RunFailed("out of memory", code="oom", execution_id=RUN),
    errors.Unavailable("Redis is away.", retry_after=1),
    errors.Unavailable("No spot.", code="no_spot", retry_after=5, execution_id=RUN),
    errors.TimedOut("The wait ended.", execution_id=RUN),
    errors.TimedOut("Its time is over.", code="timeout", execution_id=RUN),
]  # fmt: skip
SHOWN = ("Allow", "Connection", "Content-Type", "Execution-Id", "Retry-After", "WWW-Authenticate")


@pytest.fixture
def api() -> Api:
    return Api()


def failing(api: Api, error: Exception) -> None:
    def deployments(*_: Any) -> Any:
        raise error

    api.services.deployments.list = deployments  # type: ignore[method-assign]


def seen(api: Api, method: str, path: str, **more: Any) -> dict[str, Any]:
    answer = api.call(method, path, **more)
    headers = {name: answer.headers[name] for name in SHOWN if name in answer.headers}
    return {"status": answer.status, "headers": headers, "body": json.loads(answer.data)}


def test_the_shapes_of_all_errors_are_golden(api: Api) -> None:
    shapes = {}
    for error in MADE:
        failing(api, error)
        shapes[f"{type(error).__name__}: {error.message}"] = seen(api, "GET", "/v1/deployments/")
    for method, path in (
        ("GET", "/nowhere"),
        ("PUT", "/v1/executions/"),
        ("OPTIONS", "/v1/deployments/"),
        ("TRACE", "/"),
    ):
        shapes[f"{method} {path}"] = seen(api, method, path)
    text = json.dumps(shapes, indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_every_error_class_is_in_the_golden_file() -> None:
    assert {type(error) for error in MADE} == set(ApiError.__subclasses__())


def test_a_defect_is_logged_and_shows_nothing(api: Api) -> None:
    failing(api, RuntimeError("password=hush"))

    with capture_logs() as logged:
        answer = api.call("GET", "/v1/deployments/")

    assert answer.status_code == 500
    assert json.loads(answer.data)["error_code"] == "internal"
    assert "hush" not in answer.text
    assert "Traceback" not in answer.text
    (entry,) = logged
    assert (entry["event"], entry["path"], entry["log_level"]) == ("internal error", "/v1/deployments/", "error")
    assert isinstance(entry["exc_info"], RuntimeError)


@pytest.fixture
def log_of_a_server() -> Iterator[io.StringIO]:
    """What a server process would write to its log."""
    before, written = structlog.get_config(), io.StringIO()
    with contextlib.redirect_stderr(written):
        log.configure("debug", "api")
        structlog.configure(cache_logger_on_first_use=False)
        yield written
    structlog.configure(**before)


def test_b16_line_breaks_cannot_forge_a_log_line(api: Api, log_of_a_server: io.StringIO) -> None:
    failing(api, RuntimeError("one\nERROR forged\r\n"))

    api.call("GET", "/v1/deployments/")

    (line,) = log_of_a_server.getvalue().splitlines()
    assert json.loads(line)["event"] == "internal error"
    assert "ERROR forged" in line


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/deployments/", "/v1//deployments/", "//v1/deployments/", "/static/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PROPFIND"])
def test_what_is_nowhere_is_the_one_404(api: Api, method: str, path: str) -> None:
    assert api.refused(404, method, path)["error_code"] == "not_found"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/deployments/..",
        "/v1/deployments/%2e%2e",
        "/v1/deployments/%2e%2e%2fetc%2fpasswd",
        "/v1/deployments/..%252f..%252fetc",
        "/v1/deployments/%00",
        "/v1/deployments/%F0%9F%98%80",
        "/v1/deployments/%FF",
        "/v1/deployments/" + "x" * 64,
        "/v1/deployments/-rf",
        "/v1/deployments/hello/versions/0",
        "/v1/deployments/hello/versions/99999999999999999999",
        "/v1/deployments/hello/versions/one",
        "/v1/executions/x",
        "/v1/executions/' OR 1=1 --",
        "/v1/executions/%00",
        "/v1/executions/00000000-0000-0000-0000-00000000000Z",
        "/v1/spots/not-an-address",
        "/v1/spots/127.0.0.1%00",
        "/v1/spots/999.0.0.1",
        "/v1/tokens/a/b",
    ],
)
def test_names_and_ids_that_belong_to_nothing_are_a_404(api: Api, path: str) -> None:
    api.deploy()
    assert api.refused(404, "GET", path)["error_code"] == "not_found"


def test_a_method_override_is_ignored(api: Api) -> None:
    api.deploy()
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        assert api.ok("GET", "/v1/deployments/hello", headers={name: "DELETE"})["name"] == "hello"
    api.refused(400, "GET", "/v1/deployments/hello?_method=DELETE")
    assert api.ok("GET", "/v1/deployments/hello")


@pytest.mark.parametrize("host", ["evil.example", "a b", "", "[::1", "xn--\xff"])
def test_a_host_header_changes_nothing_and_is_not_repeated(api: Api, host: str) -> None:
    api.deploy()
    answer = api.call("GET", "/v1/deployments/hello", headers={"Host": host, "X-Forwarded-Host": "evil.example"})
    assert answer.status_code == 200
    assert "evil" not in answer.text + str(answer.headers)


def test_a_host_header_that_no_host_can_have_is_a_400(api: Api) -> None:
    api.refused(400, "GET", "/v1/deployments/", headers={"Host": "x" * 5000})


def test_head_answers_as_get_without_a_body_and_never_acts(api: Api) -> None:
    api.deploy()
    before = len(api.services.state.executions)
    answer = api.call("HEAD", "/v1/deployments/hello")
    assert (answer.status_code, answer.data) == (200, b"")
    for path in (
        "/v1/deployments/hello/rpc/?a=1",
        "/v1/sync/deployments/hello/rpc/?a=1",
        "/v1/spots/replace/127.0.0.1",
        "/v1/nodes/shop/replace/127.0.0.1",
    ):
        assert api.call("HEAD", path).status_code == 405
    assert len(api.services.state.executions) == before


def test_every_answer_is_safe_for_a_browser(api: Api) -> None:
    api.deploy(code="def main(args, context):\n    return '<script>alert(1)</script>'\n")
    paths = ("/v1/sync/deployments/hello/rpc/", "/v1/deployments/hello", "/nowhere", "/healthz", "/openapi.json")
    for path in paths:
        headers = api.call("GET", path, headers={"Origin": "https://evil.example"}).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert not [name for name in headers.keys() if name.startswith("Access-Control")]  # noqa: SIM118
        if path != "/openapi.json":
            assert headers["Cache-Control"] == "no-store"
