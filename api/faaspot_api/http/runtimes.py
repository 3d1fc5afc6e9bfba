"""Runtimes: where functions run. Admins define them; everybody may list and use them."""

from __future__ import annotations

from flask import Response

from faaspot_api.http import answers, schemas
from faaspot_api.http.routes import Call, Routes
from faaspot_runner.contract.runtimes import RuntimeDefinition

routes = Routes("runtimes")


@routes.route("GET", "/runtimes/", list[schemas.Runtime])
def list_runtimes(call: Call) -> Response:
    """All runtimes: the built-in ones, then those that were defined."""
    return answers.value([answers.runtime(runtime) for runtime in call.services.runtimes.list(call.who)])


@routes.route("PUT", "/runtimes/", schemas.Runtime, body=schemas.CreateRuntime, errors=(409,))
def create_runtime(call: Call, body: schemas.CreateRuntime) -> Response:
    """Define a runtime. Nothing is started: a lazy one comes up at its first use, another when it is deployed."""
    definition = RuntimeDefinition(
        name=body.name,
        type=body.type,
        config=body.config,
        wraps=body.wraps,
        lazy=body.lazy,
        external=body.external,
    )
    return answers.value(answers.runtime(call.services.runtimes.create(call.who, definition)))


@routes.route("GET", "/runtimes/<name>", schemas.Runtime, errors=(404,))
def get_runtime(call: Call, name: str) -> Response:
    """One runtime, with its status over all spots."""
    return answers.value(answers.runtime(call.services.runtimes.get(call.who, name)))


@routes.route("DELETE", "/runtimes/<name>", schemas.Deleted, errors=(404, 409))
def delete_runtime(call: Call, name: str) -> Response:
    """Take a runtime down and forget it; 409 `busy` while a deployment or another runtime uses it."""
    call.services.runtimes.delete(call.who, name)
    return answers.value({"name": name})


@routes.route("POST", "/runtimes/<name>/deploy", schemas.Runtime, errors=(404, 409))
def deploy_runtime(call: Call, name: str) -> Response:
    """Bring a runtime up on every spot that can; the answer's status is `deploying` until they have."""
    return answers.value(answers.runtime(call.services.runtimes.deploy(call.who, name)))


@routes.route("POST", "/runtimes/<name>/undeploy", schemas.Runtime, errors=(404, 409))
def undeploy_runtime(call: Call, name: str) -> Response:
    """Take a runtime out of service on every spot; 409 `busy` while one in service stands on it."""
    return answers.value(answers.runtime(call.services.runtimes.undeploy(call.who, name)))
