"""The API over the fake services, in this process: what the HTTP unit tests ask."""

from __future__ import annotations

import json
from typing import Any

from werkzeug.test import TestResponse

from faaspot_api.app import application
from faaspot_api.http.waiters import Waiters
from tests.fake_services import ADMIN_TOKEN, FakeServices

HELLO = "def main(args, context):\n    return args\n"


class Api:
    """A client with an admin's token; one caller may wait. `services.state` shows what the services were asked."""

    def __init__(self) -> None:
        self.services = FakeServices()
        self.waiters = Waiters(most=1, each=1)
        self.app = application(self.services, waiters=self.waiters)  # type: ignore[arg-type]
        self._client = self.app.test_client()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        token: str | None = ADMIN_TOKEN,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> TestResponse:
        """One request; `body` as JSON, `raw` as it is."""
        sent = dict(headers or {})
        if token is not None:
            sent.setdefault("Authorization", f"Token {token}")
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        return self._client.open(path, method=method, data=data, headers=sent, **more)

    def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The value of an answer that must be exactly 200 with a JSON body (W5)."""
        answer = self.call(method, path, body, **more)
        assert answer.status_code == 200, answer.text
        assert answer.mimetype == "application/json"
        return json.loads(answer.data)

    def refused(self, status: int, method: str, path: str, body: Any = None, **more: Any) -> dict[str, Any]:
        """The error of an answer that must have this status and the one shape."""
        answer = self.call(method, path, body, **more)
        assert answer.status_code == status, answer.text
        assert answer.mimetype == "application/problem+json"
        problem: dict[str, Any] = json.loads(answer.data)
        assert problem["status"] == status
        assert problem["message"] == problem["detail"]
        assert problem["error_code"]
        return problem

    def deploy(self, name: str = "hello", code: str = HELLO, **more: Any) -> str:
        """A deployment; the id of its build."""
        build: str = self.ok("PUT", "/v1/deployments/", {"name": name, "code": code, **more})
        return build

    @property
    def last(self) -> tuple[Any, ...]:
        """The arguments of the last call that a service remembers."""
        return self.services.state.calls[-1][1]
