"""schemathesis against the document that the API gives of itself: no `internal`, no undocumented status or body.

Here the API stands over fake services in this process; the end-to-end suite asks the whole platform in the same way.
"""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.fake_services import ADMIN_TOKEN
from tests.http_api import Api

pytestmark = pytest.mark.slow

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    ignored_auth,
    unsupported_method,
]


api = Api()
api.deploy("0")  # the shortest name, which a generator finds by itself
schema = schemathesis.openapi.from_wsgi("/openapi.json", api.app)


@schema.parametrize()
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_the_document_says(case: Any) -> None:
    case.call_and_validate(headers={"Authorization": f"Token {ADMIN_TOKEN}"}, checks=CHECKS)
