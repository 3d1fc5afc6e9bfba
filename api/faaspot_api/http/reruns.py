"""Reruns: dead letters that run again, one or many."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from flask import Response
from pydantic import BaseModel, ConfigDict, Field

from faaspot_api.domain.model import Filter
from faaspot_api.http import answers, schemas
from faaspot_api.http.routes import Call, Routes
from faaspot_runner.contract import Reason

routes = Routes("reruns")


class RerunExecutions(schemas.Request):
    """Which failures to run again; without `status` and `reason` all of them."""

    status: Literal["Failure", "Cancelled"] = schemas.left_out()
    deployment: str = schemas.left_out()
    reason: Reason = schemas.left_out()
    since: schemas.Moment = schemas.left_out("Created at or after; UTC where no offset is said.")
    until: schemas.Moment = schemas.left_out("Created before.")
    limit: int = Field(default=100, ge=1, le=1000)
    cursor: str = schemas.left_out("Of the answer before; opaque.", max_length=1000)


class Rerun(BaseModel):
    """What became of running `of` again."""

    model_config = ConfigDict(extra="forbid")

    of: schemas.ExecutionId
    uuid: schemas.ExecutionId | None = Field(description="The new execution, null if there is none.")
    message: str | None = Field(description="Why there is none.")


class Reruns(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reruns: list[Rerun]
    cursor: str | None = Field(description="Of the next part, null at the end.")


@routes.route("POST", "/executions/<uuid>/rerun", schemas.ExecutionId, errors=(404, 409, 429))
def rerun_execution(call: Call, uuid: str) -> Response:
    """Run an execution that has ended again, with its args, by its deployment as it stands now."""
    again = call.services.reruns.rerun(call.who, uuid)
    return answers.text(f'"{again}"', headers={"Execution-Id": again})


@routes.route("POST", "/executions/rerun", Reruns, body=RerunExecutions, errors=(429,))
def rerun_executions(call: Call, body: RerunExecutions) -> Response:
    """Run again what failed and was not run again before, newest first; `cursor` leads to the next part."""
    wanted = Filter(
        status=body.status, deployment=body.deployment, reason=body.reason, since=body.since, until=body.until
    )
    done = call.services.reruns.rerun_all(call.who, wanted, body.limit, body.cursor)
    return answers.value({"reruns": [asdict(item) for item in done.items], "cursor": done.cursor})
