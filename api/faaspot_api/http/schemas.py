"""What requests may say and what answers hold, as pydantic models.

The request models validate; both kinds make the OpenAPI document, and the tests check every answer against them. The
run routes do not come here: args are any JSON object and stay text.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from faaspot_api.domain import callbacks, limits, names
from faaspot_api.domain.model import Role
from faaspot_api.domain.retries import ON_REQUEST
from faaspot_api.errors import FieldError, Invalid
from faaspot_api.http import wire
from faaspot_runner.contract import Kind, Network, Reason, Status
from faaspot_runner.contract.egress import MOST
from faaspot_runner.contract.runtimes import RUNTIME_TYPES, RuntimeStatus

MAX_BULK = 20_000
NAME = f"^{names.NAME.pattern}$"
UUID = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"

# A field that may be left out, but is not null: pydantic's default None is never validated, so null is still refused.
# The sentinel's `default` is taken out of the schema again.


def left_out(description: str | None = None, *, document: Mapping[str, Any] | None = None, **bounds: Any) -> Any:
    """A field that is None when it was not said. `document`: bounds that the domain checks, for readers only."""

    def schema(made: dict[str, Any]) -> None:
        made.pop("default", None)
        made.update(document or {})

    return Field(default=None, description=description, json_schema_extra=schema, **bounds)


def _range(name: str) -> dict[str, float]:
    return {"minimum": limits.RANGES[name].least, "maximum": limits.RANGES[name].most}


class Request(BaseModel):
    """Base of all that is sent to us: an unknown field is an error that names it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


# ---------------------------------------------------------------- requests

Name = Annotated[str, Field(pattern=NAME, description="Letters, digits, `.`, `_`, `-`; begins with a letter or digit.")]
ContextValue = str | dict[str, Any]


class _Settings(Request):
    timeout: float = left_out("Seconds that a run may take.", document=_range("timeout"))
    memory: int = left_out("MB that a run may use.", document=_range("memory"))
    pids: int = left_out("Processes and threads that a run may have.", document=_range("pids"))
    tmp: int = left_out("MB of a run's private /tmp.", document=_range("tmp"))
    network: Network = left_out("`none`, or `internet` without any private address.")
    python: str = left_out('Minor version of CPython, such as "3.12".')
    runtime: str = left_out("Where it runs: the name of a runtime, such as `sandbox`.")
    egress: list[str] = left_out(
        'The only places that a run may connect to: "HOST:PORT", "NETWORK:FIRST-LAST"; ["*"] lifts an earlier list.',
        document={"maxItems": MOST},
    )
    sdist: bool = left_out("Packages without a wheel may be built, inside a sandbox.")
    reuse: bool = left_out("A process serves run after run, with whatever the earlier ones have left in it.")
    description: str = left_out("A text for people.", document={"maxLength": limits.MAX_DESCRIPTION})
    retries: int = left_out(
        "Further starts of a run that the platform lost or `retry_on` names; left out: as many as the server says.",
        document=_range("retries"),
    )
    retry_on: list[Reason] = left_out(
        "Failures of the function that are tried again, too.",
        document={"items": {"type": "string", "enum": list(ON_REQUEST)}},
    )
    retry_backoff: float = left_out(
        "Seconds before the second start; they double before each further one.", document=_range("retry_backoff")
    )
    callback_url: str = left_out(
        "The http or https URL that is told of each run's end, signed; empty for nobody.",
        document={"maxLength": callbacks.MAX_URL},
    )
    max_age: float = left_out(
        "Seconds that a run may wait for its start, then it ends as `no_spot`; never longer than the server allows.",
        document=_range("max_age"),
    )
    concurrency: int = left_out(
        "Runs at once, over all spots; the others wait for their turn. 0: as many as there is room for.",
        document=_range("concurrency"),
    )
    keep_days: float = left_out(
        "Days that the record of an ended run is kept; left out: as long as the server says.",
        document=_range("keep_days"),
    )
    keep_runs: int = left_out(
        "Records of ended runs that are kept, the newest ones; left out: any number.", document=_range("keep_runs")
    )
    min_warm: int = left_out(
        "On so many spots a sandbox of it is started before anybody runs it, and stays.", document=_range("min_warm")
    )


class CreateDeployment(_Settings):
    """A function package: code with `main(args, context)`, pip requirements, secrets, settings."""

    name: Name
    code: str = Field(description="Python source, raw or percent-encoded.")
    requirements: str = left_out("One PEP 508 line each: `name[extras] (version) ; marker`.")
    context: ContextValue = left_out('Secrets: `key = "value"` lines, or an object.')


class UpdateDeployment(_Settings):
    """What is to change; the rest stays. `name` renames."""

    name: Name = left_out("Its new name.")
    code: str = left_out("Python source, raw or percent-encoded.")
    requirements: str = left_out("One PEP 508 line each; empty for none.")
    context: ContextValue = left_out("Replaces all secrets; empty for none.")


class Rollback(Request):
    """The version that shall be current again."""

    version: int = Field(ge=1, le=2**31 - 1)


class CreateRuntime(Request):
    """A new runtime; its definition never changes."""

    name: Name
    type: str = Field(description=f"One of {', '.join(RUNTIME_TYPES)}.")
    config: dict[str, Any] = Field(default_factory=dict, description="What the type takes, each value a text.")
    wraps: str | None = Field(default=None, description="The runtime that it stands on.")
    lazy: bool = Field(default=True, description="It comes up at its first use.")
    external: bool = Field(default=False, description="Its life is not ours: the platform only connects to it.")


class CreateToken(Request):
    """A new token. It cannot be limited to some `spots` yet: any but an empty list is refused."""

    name: Name
    role: Literal["admin", "deployer", "invoker", "monitor", "join"]
    spots: list[str] = left_out(max_length=254)


def _moment(value: Any) -> datetime:
    text = str(value)
    # In a query a bare "+" is a space, so the record's own "...537686+00:00" arrives as "...537686 00:00".
    if len(text) > 6 and text[-6] == " " and ":" in text[:-6]:
        text = f"{text[:-6]}+{text[-5:]}"
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a time, such as 2017-07-21 15:10:52.537686+00:00") from None


Moment = Annotated[datetime, PlainValidator(_moment, json_schema_input_type=str)]
Flag = Annotated[
    bool, PlainValidator(wire.flag, json_schema_input_type=Annotated[str, Field(pattern="^([Tt]rue|[Ff]alse|0|1)$")])
]


class ListExecutions(Request):
    """Which executions to show, newest first."""

    status: Status = left_out()
    deployment: str = left_out()
    reason: Reason = left_out()
    since: Moment = left_out("Created at or after; UTC where no offset is said.")
    until: Moment = left_out("Created before.")
    include_completed: Flag = left_out("Also those that have ended.")
    rerun: Flag = left_out("Only those that were run again, or with `false` that were not.")
    limit: int = Field(default=100, ge=1, le=1000)
    cursor: str = left_out("Of the `next` link; opaque.", max_length=1000)


class Logs(Request):
    """How to read a log."""

    follow: Flag = left_out("Stream it until the execution has ended.")


class Empty(Request):
    """Nothing: no query parameter is known here."""


# ---------------------------------------------------------------- answers

ExecutionId = Annotated[str, Field(pattern=UUID)]
Time = Annotated[str, Field(examples=["2017-07-21 15:10:52.537686+00:00"])]


class Changed(BaseModel):
    """The execution that does it."""

    uuid: ExecutionId


class ErrorText(BaseModel):
    type: str
    message: str
    traceback: str | None


class Execution(BaseModel):
    """The one record of an execution."""

    model_config = ConfigDict(extra="forbid")

    uuid: ExecutionId
    name: str
    deployment: str | None
    version: int | None
    kind: Kind
    status: Status
    reason: Reason | None
    output: Any
    error: ErrorText | None
    args: dict[str, Any] | None
    created: Time
    started: Time | None
    ended: Time | None
    spot: str | None
    attempt: int
    timings: dict[str, Any]
    usage: dict[str, Any]
    logs_truncated: bool
    traceparent: str | None
    output_size: int | None = Field(
        description="Bytes of an output that is too long to stand here: then `output` is null, "
        "and GET /executions/{uuid}/output has it."
    )
    args_size: int | None = Field(
        description="Bytes of args that are too long to stand here: then `args` is null, "
        "and GET /executions/{uuid}/args has them."
    )


class Settings(BaseModel):
    timeout: float | None
    memory: int | None
    pids: int | None
    tmp: int | None
    network: Network | None
    python: str | None
    runtime: str | None
    sdist: bool | None
    reuse: bool | None
    description: str | None
    egress: list[str] | None
    retries: int | None
    retry_on: list[Reason] | None
    retry_backoff: float | None
    max_age: float | None
    callback_url: str | None
    concurrency: int | None
    keep_days: float | None
    keep_runs: int | None
    min_warm: int | None


class VersionSummary(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: int
    status: Literal["pending", "in-progress", "success", "failed"]
    reason: str | None
    build: ExecutionId | None
    environment: str | None
    requirements: str
    context_keys: list[str]
    settings: Settings
    created: Time


class Version(VersionSummary):
    code: str = Field(description="Percent-encoded.")
    lock: str | None


class DeploymentSummary(VersionSummary):
    name: str
    owner: str
    runner_url: str
    updated: Time


class Deployment(DeploymentSummary):
    code: str = Field(description="Percent-encoded.")
    lock: str | None


class Runtime(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    type: str
    config: dict[str, str]
    wraps: str | None
    lazy: bool
    external: bool
    status: RuntimeStatus
    error: str | None
    users: list[str] = Field(description="`deployments/NAME` and `runtimes/NAME`, as far as the token sees them.")


class Deleted(BaseModel):
    name: str


class Token(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    role: Role
    spots: list[str]
    created: Time


class NewToken(Token):
    token: str = Field(description="Shown this once.")


class Revoked(BaseModel):
    name: str


class Health(BaseModel):
    status: Literal["ok"]


class Ready(BaseModel):
    status: Literal["ok"]
    parts: dict[str, str]


class Check(BaseModel):
    section: str
    name: str
    answer: Literal["ok", "weaker", "missing"]
    text: str
    what_to_do: str


class Examination(BaseModel):
    ok: bool
    version: str
    time: float = Field(description="Epoch seconds by the server's clock.")
    checks: list[Check]


class BadField(BaseModel):
    field: str
    message: str
    line: int | None = None


class Problem(BaseModel):
    """Every error has this shape."""

    type: str
    title: str
    status: int
    detail: str
    message: str
    error_code: str
    execution_id: str | None = None
    errors: list[BadField] | None = None
    error: dict[str, Any] | None = None


# ---------------------------------------------------------------- validation


M = TypeVar("M", bound=Request)


def validated(model: type[M], values: Mapping[str, Any], *, typed: bool) -> M:
    """`values` as a model; text stands for numbers and booleans only where they are not `typed`.

    Raises Invalid that names every bad field.
    """
    try:
        return model.model_validate(values, strict=typed)
    except ValidationError as error:
        raise Invalid.fields(*_bad_fields(error)) from None


def _bad_fields(error: ValidationError) -> list[FieldError]:
    """One entry a field; where a value could have had several types, what each of them says."""
    said: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        field = _place(problem["loc"])
        text = _TEXTS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
        messages = said.setdefault(field, [])
        if text not in messages:
            messages.append(text[:1].lower() + text[1:])
    return [FieldError(field=field, message=" or ".join(messages)) for field, messages in said.items()]


_TEXTS = {"extra_forbidden": "unknown field", "missing": "is required"}


def _place(loc: tuple[int | str, ...]) -> str:
    """``spots[3]``; what pydantic adds to name a branch of a union is left out."""
    head, *rest = loc or ("body",)
    return f"{str(head)[:100]}" + "".join(f"[{part}]" for part in rest if isinstance(part, int))
