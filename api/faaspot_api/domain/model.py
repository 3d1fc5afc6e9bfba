"""The records of the control plane, as services hand them to HTTP. Times are UTC datetimes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from faaspot_runner.contract import Kind, LargeValue, Network, Reason, Status
from faaspot_runner.contract.runtimes import RuntimeStatus

Role = Literal["admin", "deployer", "invoker", "monitor", "join", "spot"]
BuildStatus = Literal["pending", "in-progress", "success", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks. `name` is the token's name and the owner of what it makes; `spots` limits a deployer, () = any."""

    name: str
    role: Role
    spots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a deployment version. None: not said, the default applies. Units as in `contract.Limits`.

    `egress`: as it was said, items of `contract.egress`; it stays None where nobody said any. So does `retries`,
    further starts of a run: None are as many as the server allows. `retry_on`, `retry_backoff`: see `domain.retries`.
    `max_age`: seconds that a run may wait for its start; None, or more than that: the server's own number.
    `callback_url`: who is told of each run's end, "" nobody. `concurrency`: runs at once over all spots, 0 as many as
    there is room for. `keep_days`, `keep_runs`: how long, and how many, records of ended runs are kept; None: the
    server's own days, and any number. `min_warm`: on how many spots it stands ready unasked.
    """

    timeout: float | None = None
    memory: int | None = None
    pids: int | None = None
    tmp: int | None = None
    network: Network | None = None
    python: str | None = None
    runtime: str | None = None
    sdist: bool | None = None
    reuse: bool | None = None
    description: str | None = None
    egress: tuple[str, ...] | None = None
    retries: int | None = None
    retry_on: tuple[Reason, ...] | None = None
    retry_backoff: float | None = None
    max_age: float | None = None
    callback_url: str | None = None
    concurrency: int | None = None
    keep_days: float | None = None
    keep_runs: int | None = None
    min_warm: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentChange:
    """What a create or an update brings. None: not said (on update: keep).

    `context`: text or dict; "" and {} empty it.
    """

    code: str | None = None
    requirements: str | None = None
    context: str | Mapping[str, Any] | None = None
    name: str | None = None
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """An immutable revision. `settings` has every value filled in; `requirements` is the text as it was sent.

    `code`, `lock`, `archive` (the packed environment) and `context` (sealed for the spots) are blob digests;
    `context_for` is the id of the version that brought the context; `packages` are the canonical requirement lines,
    what a build is asked for.
    """

    id: str
    number: int
    code: str
    requirements: str
    lock: str | None
    environment: str | None
    context_keys: tuple[str, ...]
    settings: Settings
    status: BuildStatus
    reason: str | None
    build: str | None
    created: datetime
    packages: str = ""
    context: str | None = None
    context_for: str | None = None
    archive: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A deployment with its current version, or while none has succeeded the newest.

    `status`, `reason` and `build` are those of the newest version's build.
    """

    id: str
    name: str
    owner: str
    version: Version
    status: BuildStatus
    reason: str | None
    build: str | None
    created: datetime
    updated: datetime


Args = str | LargeValue
"""Of a run: JSON text of a dict, or where such a text is kept that is too long for a record."""


def large(digest: str | None, size: int | None) -> LargeValue | None:
    """The value that a record has as a blob, None if it has none."""
    return None if digest is None or size is None else LargeValue(digest=digest, size=size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """The one record of an execution. `output` and `args` are JSON texts; `error` is {type, message, traceback}.

    `output_blob`, `output_size`: the digest and the bytes of an output that is too long to stand here; then it is None.
    `args_blob`, `args_size`: the same of args.
    """

    uuid: str
    name: str
    deployment: str | None
    version: int | None
    kind: Kind
    status: Status
    reason: Reason | None
    output: str | None
    error: dict[str, Any] | None
    args: str | None
    created: datetime
    started: datetime | None
    ended: datetime | None
    spot: str | None
    attempt: int
    timings: dict[str, Any]
    usage: dict[str, Any]
    logs_truncated: bool
    owner: str
    traceparent: str | None = None
    output_blob: str | None = None
    output_size: int | None = None
    args_blob: str | None = None
    args_size: int | None = None

    @property
    def given(self) -> Args:
        """The args, wherever they are."""
        return large(self.args_blob, self.args_size) or self.args or "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a caller says of a run beside its args. None: not said.

    `key`: the same request under the same key is the same execution; `max_age`: seconds that it may wait for its start;
    `callback`: the URL that is told of its end; `traceparent`: the trace that it belongs to.
    """

    key: str | None = None
    max_age: float | None = None
    callback: str | None = None
    traceparent: str | None = None


NO_OPTIONS = RunOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a list of executions shows; None: any.

    `ended` False leaves out terminal records unless `status` or `reason` is said.
    """

    status: Status | None = None
    deployment: str | None = None
    reason: Reason | None = None
    since: datetime | None = None
    until: datetime | None = None
    ended: bool = True
    kind: Kind | None = None
    rerun: bool | None = None
    """Only those that somebody has run again (True), or nobody has (False)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """What became of running `of` again: the new execution's id, or why there is none."""

    of: str
    uuid: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reruns:
    """One part of many that are run again. `cursor` is opaque text for the next part, None at the end."""

    items: tuple[Rerun, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackTry:
    """One try to tell of an end. `status`: of the HTTP answer; None: there was none, and `error` says why."""

    at: datetime
    status: int | None
    error: str | None
    ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """Who is told of an execution's end. `origin`: the address without its path, which may hold a secret.

    `status`: waiting for the end, pending (told soon, or again), delivered, failed for good. `next`: when it is told.
    """

    origin: str
    status: Literal["waiting", "pending", "delivered", "failed"]
    next: datetime | None
    tries: tuple[CallbackTry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page, newest first. `cursor` is opaque text for the next, None at the end."""

    items: tuple[Execution, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A worker host as people see it."""

    ip: str
    created: datetime
    last_seen: datetime
    status: Literal["online", "draining", "offline"]
    runtimes: tuple[str, ...]
    pythons: dict[str, str]
    networks: tuple[str, ...]
    limits: str
    workers: dict[str, int]
    running: int
    sandboxes: int
    problems: tuple[str, ...]
    remote: bool
    capacity: int
    load: float
    egress: bool
    min_workers: int | None
    max_workers: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A runtime and how it stands over all spots. `users`: "deployments/NAME", "runtimes/NAME" (those that wrap it)."""

    name: str
    type: str
    config: Mapping[str, str]
    wraps: str | None
    lazy: bool
    external: bool
    status: RuntimeStatus
    error: str | None
    users: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token without its text."""

    name: str
    role: Role
    spots: tuple[str, ...]
    created: datetime
