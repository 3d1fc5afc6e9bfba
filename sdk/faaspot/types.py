"""What the platform gives back: dicts with typed attributes.

Every record is the JSON object as it came, so ``execution["status"]``, ``"reason" in execution``,
``execution.get("spot")`` and ``json.dumps(execution)`` work, and so does ``execution.status``, which a type checker
knows. Fields that a newer platform adds are kept. Times are texts in UTC: "2017-07-21 15:10:52.537686+00:00".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeAlias, TypedDict, TypeVar, overload

T = TypeVar("T")
R = TypeVar("R", bound="Record")

Status: TypeAlias = Literal["Pending", "Started", "Success", "Failure", "Cancelled"]
Kind: TypeAlias = Literal["run", "build", "spot", "delete"]
BuildStatus: TypeAlias = Literal["pending", "in-progress", "success", "failed"]
RuntimeStatus: TypeAlias = Literal["undeployed", "deploying", "deployed", "undeploying", "failed"]
Role: TypeAlias = Literal["admin", "deployer", "invoker", "monitor", "join", "spot"]

ENDED: frozenset[str] = frozenset({"Success", "Failure", "Cancelled"})
"""The statuses that never change again."""


class Record(dict[str, Any]):
    """A JSON object whose known fields are also attributes."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        """An attribute that is set would not be in the dict, so it cannot be."""
        raise AttributeError(f"the attributes of a {type(self).__name__} are read-only")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({super().__repr__()})"


class Field(Generic[T]):
    """A field of a `Record`, read as an attribute. AttributeError if the platform did not send it."""

    def __set_name__(self, owner: type[Record], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, record: None, owner: type[Record]) -> Field[T]: ...
    @overload
    def __get__(self, record: Record, owner: type[Record]) -> T: ...
    def __get__(self, record: Record | None, owner: type[Record]) -> Field[T] | T:
        if record is None:
            return self
        return self.read(record, owner)

    def read(self, record: Record, owner: type[Record]) -> T:
        """The value as it came."""
        try:
            value: T = record[self.name]
        except KeyError:
            raise AttributeError(f"the platform sent no {self.name!r} in this {owner.__name__}") from None
        return value


class Nested(Field[R]):
    """A field that is itself a `Record`; one that was left out or null reads as an empty one."""

    def __init__(self, kind: type[R]) -> None:
        self.kind = kind

    def read(self, record: Record, owner: type[Record]) -> R:
        return self.kind(record.get(self.name) or {})


class Marks(Record):
    """When each step was, in milliseconds after the execution was accepted; None where it was not, or nobody saw it.

    `forked`: the run's process was there; `started` and `finished`: `main`, by its own process' word; `reported`: the
    worker had the end ready; `recorded`: so had the record; `answered`: a waiting caller was given it.
    """

    committed = Field[float | None]()
    queued = Field[float | None]()
    taken = Field[float | None]()
    forked = Field[float | None]()
    started = Field[float | None]()
    finished = Field[float | None]()
    reported = Field[float | None]()
    recorded = Field[float | None]()
    answered = Field[float | None]()


class Timings(Record):
    """Milliseconds; None where the execution did not come so far. `cold`: a sandbox had to be started."""

    queue_ms = Field[float | None]()
    start_ms = Field[float | None]()
    import_ms = Field[float | None]()
    imports = Field[dict[str, float] | None]()
    run_ms = Field[float | None]()
    total_ms = Field[float | None]()
    cold = Field[bool | None]()
    marks = Nested(Marks)


class Usage(Record):
    """What the execution took."""

    max_memory_mb = Field[float | None]()
    cpu_ms = Field[float | None]()


class Failed(Record):
    """A failure, as the function raised it. `traceback` begins in the user's file; all None for no failure."""

    type = Field[str]()
    message = Field[str]()
    traceback = Field[str | None]()


class Execution(Record):
    """The one record of an execution: a run of `main`, a build, a spot being added.

    `output` is the JSON value that `main` returned, for a failure the error's one-line text. `reason` is a word that
    says why it did not succeed, None if it did (or has not ended). `output_size`: bytes of an output that is too long
    to stand here; then `output` is None, and `executions.output` fetches it. `args_size`, `executions.args`: the same.
    """

    uuid = Field[str]()
    name = Field[str]()
    deployment = Field[str | None]()
    version = Field[int | None]()
    kind = Field[Kind]()
    status = Field[Status]()
    reason = Field[str | None]()
    output = Field[Any]()
    error = Nested(Failed)
    args = Field[Any]()
    created = Field[str]()
    started = Field[str | None]()
    ended = Field[str | None]()
    spot = Field[str | None]()
    attempt = Field[int]()
    timings = Nested(Timings)
    usage = Nested(Usage)
    logs_truncated = Field[bool]()
    traceparent = Field[str | None]()
    output_size = Field[int | None]()
    args_size = Field[int | None]()

    @property
    def has_ended(self) -> bool:
        """Whether the status is one that never changes again."""
        return self["status"] in ENDED


class Callback(Record):
    """Who is told of an execution's end: `origin`, its URL without the path. `next`: when it is told (again).

    `status`: "waiting" for the end, "pending", "delivered" or "failed"; `tries` {at, status, error, ms} of each try.
    """

    origin = Field[str]()
    status = Field[str]()
    next = Field[str | None]()
    tries = Field[list[dict[str, Any]]]()


class Rerun(Record):
    """What became of running the execution `of` again: the new one's id, or None and a message that says why."""

    of = Field[str]()
    uuid = Field[str | None]()
    message = Field[str | None]()


class Settings(Record):
    """The settings of a deployment version. Units: `timeout` seconds, `memory` and `tmp` MB (2**20)."""

    timeout = Field[float]()
    memory = Field[int]()
    pids = Field[int]()
    tmp = Field[int]()
    network = Field[str]()
    python = Field[str]()
    runtime = Field[str]()
    sdist = Field[bool]()
    reuse = Field[bool]()
    description = Field[str | None]()
    egress = Field[list[str] | None]()
    retries = Field[int | None]()
    retry_on = Field[list[str]]()
    retry_backoff = Field[float]()
    max_age = Field[float | None]()
    callback_url = Field[str]()
    concurrency = Field[int]()
    keep_days = Field[float | None]()
    keep_runs = Field[int | None]()
    min_warm = Field[int]()


class Deployment(Record):
    """A named function package with its current version.

    `code` (plain text, though the wire encodes it) and `lock` are only in the answer of `get`, not of `list`. Of a
    context only the keys are ever shown. `build` is the execution that built the newest version.
    """

    name = Field[str]()
    owner = Field[str]()
    code = Field[str]()
    requirements = Field[str]()
    context_keys = Field[list[str]]()
    version = Field[int]()
    status = Field[BuildStatus]()
    reason = Field[str | None]()
    build = Field[str | None]()
    environment = Field[str | None]()
    lock = Field[str | None]()
    settings = Nested(Settings)
    runner_url = Field[str]()
    created = Field[str]()
    updated = Field[str]()


class Version(Record):
    """An immutable revision of a deployment; `code` and `lock` only where one version was asked for."""

    version = Field[int]()
    code = Field[str]()
    requirements = Field[str]()
    context_keys = Field[list[str]]()
    build = Field[str | None]()
    lock = Field[str | None]()
    environment = Field[str | None]()
    status = Field[BuildStatus]()
    reason = Field[str | None]()
    settings = Nested(Settings)
    created = Field[str]()


class Spot(Record):
    """A worker host. `pythons`: minor version to full version; `limits`: the grade, "cgroup" or "rlimit".

    `remote`: on another host than the API; `capacity`: runs that its workers take at once; `load`: of a minute, for
    each processor; `min_workers`, `max_workers`: between which it follows its queues, None as it was started.
    """

    ip = Field[str]()
    created = Field[str]()
    last_seen = Field[str]()
    status = Field[str]()
    runtimes = Field[list[str]]()
    pythons = Field[dict[str, str]]()
    networks = Field[list[str]]()
    limits = Field[str]()
    workers = Field[dict[str, int]]()
    running = Field[int]()
    sandboxes = Field[int]()
    problems = Field[list[str]]()
    remote = Field[bool]()
    capacity = Field[int]()
    load = Field[float]()
    egress = Field[bool]()
    min_workers = Field[int | None]()
    max_workers = Field[int | None]()


class Runtime(Record):
    """Where functions run: its definition, and how it stands over all spots.

    `users`: "deployments/NAME" and "runtimes/NAME" (those that wrap it), as far as the token sees them.
    """

    name = Field[str]()
    type = Field[str]()
    config = Field[dict[str, str]]()
    wraps = Field[str | None]()
    lazy = Field[bool]()
    external = Field[bool]()
    status = Field[RuntimeStatus]()
    error = Field[str | None]()
    users = Field[list[str]]()


class Token(Record):
    """A token's name and role; `token`, its text, only in the answer that made it."""

    name = Field[str]()
    role = Field[Role]()
    spots = Field[list[str]]()
    created = Field[str]()
    token = Field[str]()


class Examination(Record):
    """How the platform is. `ok`: nothing is missing; `time`: epoch seconds by its clock; `checks`: each a dict of
    section, name, answer ("ok", "weaker", "missing"), text and what_to_do.
    """

    ok = Field[bool]()
    version = Field[str]()
    time = Field[float]()
    checks = Field[list[dict[str, Any]]]()


class SettingsFields(TypedDict, total=False):
    """The settings that create and update take as keyword arguments; left out: the platform's default (or as it was).

    `timeout` seconds; `memory` and `tmp` MB; `pids` processes and threads; `network` "none" or "internet"; `egress` the
    only places that a run may connect to ("api.example.com:443"); `python` a minor version such as "3.12"; `runtime` a
    runtime's name; `sdist` whether packages without a wheel may be built; `retries` further starts of a run
    that the platform lost or that ended for a reason in `retry_on` ("error", "timeout" ...), `retry_backoff` seconds
    before the first of them; `max_age` seconds that a run may wait for its start; `callback_url` who is told of
    each end; `concurrency` runs at once, over all spots; `reuse` one process for run after run; `keep_days`,
    `keep_runs` how long, and how many, records of ended runs are kept; `min_warm` on how many spots a sandbox of it
    is started before anybody runs it.
    """

    timeout: float
    memory: int
    pids: int
    tmp: int
    network: str
    egress: Sequence[str]
    python: str
    runtime: str
    sdist: bool
    concurrency: int
    retries: int
    retry_on: Sequence[str]
    retry_backoff: float
    reuse: bool
    description: str
    max_age: float
    callback_url: str
    keep_days: float
    keep_runs: int
    min_warm: int


class RunFields(TypedDict, total=False):
    """What a run may be told beside its args.

    `idempotency_key`: the same run under the same key is the same execution, so it is sent again where an answer was
    lost; `max_age` seconds that it may wait for its start; `callback_url` who is told of its end.
    """

    idempotency_key: str
    max_age: float
    callback_url: str
