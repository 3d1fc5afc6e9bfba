"""Deployments: create, look at, change, take back, delete."""

from __future__ import annotations

from flask import Response

from faaspot_api.domain.model import DeploymentChange, Settings, Version
from faaspot_api.errors import Invalid, NotFound
from faaspot_api.http import answers, schemas, wire
from faaspot_api.http.reading import PACKAGE_BODY
from faaspot_api.http.routes import Call, Routes
from faaspot_api.services import Services

routes = Routes("deployments")


@routes.route("GET", "/deployments/", list[schemas.DeploymentSummary])
def list_deployments(call: Call) -> Response:
    """All deployments that the token may see."""
    found = call.services.deployments.list(call.who)
    return answers.value([answers.deployment(deployment, runner_url(deployment.name)) for deployment in found])


@routes.route(
    "PUT",
    "/deployments/",
    schemas.ExecutionId,
    body=schemas.CreateDeployment,
    limit=PACKAGE_BODY,
    errors=(409, 413),
)
def create_deployment(call: Call, body: schemas.CreateDeployment) -> Response:
    """Create a deployment; the answer is the id of the execution that builds it."""
    return answers.value(call.services.deployments.create(call.who, body.name, change(body)))


@routes.route("GET", "/deployments/<name>", schemas.Deployment, errors=(404,))
def get_deployment(call: Call, name: str) -> Response:
    """A deployment with its code, lock and settings; of its context only the keys."""
    deployments = call.services.deployments
    try:
        deployment = deployments.get(call.who, name)
    except NotFound:
        if wire.lists_application(call.request, "functions"):
            return list_deployments(call)
        raise
    return answers.value(
        {
            **answers.deployment(deployment, runner_url(deployment.name)),
            **_parts(call.services, deployment.version),
        }
    )


@routes.route(
    "PATCH",
    "/deployments/<name>",
    schemas.Changed,
    body=schemas.UpdateDeployment,
    limit=PACKAGE_BODY,
    errors=(404, 409, 413),
)
def update_deployment(call: Call, name: str, body: schemas.UpdateDeployment) -> Response:
    """Change a deployment: a new version, or with `name` another name."""
    if not body.model_fields_set:
        raise Invalid("Nothing to change: send at least one of code, requirements, context, name or a setting.")
    return answers.value(wire.changed(call.services.deployments.update(call.who, name, change(body))))


@routes.route("DELETE", "/deployments/<name>", schemas.Changed, errors=(404, 409))
def delete_deployment(call: Call, name: str) -> Response:
    """Delete a deployment; the records of its executions stay."""
    return answers.value(wire.changed(call.services.deployments.delete(call.who, name)))


@routes.route("GET", "/deployments/<name>/versions", list[schemas.VersionSummary], errors=(404,))
def list_versions(call: Call, name: str) -> Response:
    """The versions of a deployment."""
    return answers.value([answers.version(version) for version in call.services.deployments.versions(call.who, name)])


@routes.route("GET", "/deployments/<name>/versions/<int(min=1,max=2147483647):number>", schemas.Version, errors=(404,))
def get_version(call: Call, name: str, number: int) -> Response:
    """One version with its code and lock."""
    version = call.services.deployments.version(call.who, name, number)
    return answers.value({**answers.version(version), **_parts(call.services, version)})


@routes.route("POST", "/deployments/<name>/rollback", schemas.Changed, body=schemas.Rollback, errors=(404, 409))
def roll_back(call: Call, name: str, body: schemas.Rollback) -> Response:
    """Make an older version current again, without a build."""
    return answers.value(wire.changed(call.services.deployments.rollback(call.who, name, body.version)))


def runner_url(name: str) -> str:
    """Where a deployment is run. Without a host: we would only repeat what the caller's Host header claims."""
    return f"{wire.PREFIXES[0]}/deployments/{name}/rpc/"


def change(body: schemas.CreateDeployment | schemas.UpdateDeployment) -> DeploymentChange:
    """What a request brings, its texts decoded; what it did not say is None."""
    said = {name: getattr(body, name) for name in body.model_fields_set}
    texts = {
        name: wire.decoded(name, text) if isinstance(text := said.pop(name), str) else text
        for name in ("code", "requirements", "context")
        if name in said
    }
    renamed = said.pop("name") if "name" in said and isinstance(body, schemas.UpdateDeployment) else None
    said.pop("name", None)
    said |= {name: tuple(said[name]) for name in ("egress", "retry_on") if name in said}
    return DeploymentChange(**texts, name=renamed, settings=Settings(**said))


def _parts(services: Services, version: Version) -> dict[str, str | None]:
    deployments = services.deployments
    return {"code": wire.code(deployments.code(version)), "lock": deployments.lock(version)}
