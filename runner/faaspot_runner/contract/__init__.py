"""What the control plane and a spot say to each other: queues, keys, requests, events, results.

The only part of the runner that the API imports; standard library only. Everything travels as strict JSON (never
pickle). A reader of this file, and of `runtimes` beside it, knows the whole seam between the two halves.

The way of one execution over this seam::

    API    commits the record (Pending, attempt, token), then enqueues an RQ job ``JOB_FUNCTION`` with one
           argument, the JSON text of a `RunRequest` or `BuildRequest`, job id ``job_id(execution, attempt)``;
           it waits in its deployment's lane until it is its turn (`contract.lanes`), then in RQ's queue
    worker takes ``lease_key(...)`` (SET NX, value = token and holder); who loses ends quietly
    worker XADD ``REPORTS`` {"event": RunStarted}
    worker XADD ``REPORTS`` {"event": RunEnded} and, if ``request.reply``, RPUSH ``reply_key(id)`` the same JSON
    worker sets the lease key to ``LEASE_DONE`` for `LEASE_DONE_SECONDS`, so that a duplicate wake-up ends, too

An event is accepted only if (execution_id, attempt, token) match the record.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from faaspot_runner.contract.exact import exact, json_object, moment, of_a_build, of_a_run
from faaspot_runner.contract.large import MAX_ARGS_BYTES as MAX_ARGS_BYTES
from faaspot_runner.contract.large import MAX_RESULT_BYTES as MAX_RESULT_BYTES
from faaspot_runner.contract.large import LargeValue as LargeValue
from faaspot_runner.contract.large import is_digest as is_digest
from faaspot_runner.contract.runtimes import Runtimes, RuntimeState, runtimes_of
from faaspot_runner.contract.sandboxes import Limits as Limits
from faaspot_runner.contract.sandboxes import Network as Network
from faaspot_runner.contract.sandboxes import SandboxSpec as SandboxSpec
from faaspot_runner.contract.sandboxes import sandbox_spec as sandbox_spec
from faaspot_runner.contract.timings import Marks as Marks
from faaspot_runner.contract.timings import Timings as Timings
from faaspot_runner.contract.timings import Usage as Usage

# ---------------------------------------------------------------- queues and keys

QUEUE_SYNC = "sync"
QUEUE_BACKGROUND = "background"
QUEUE_BUILDS = "builds"
QUEUES = (QUEUE_SYNC, QUEUE_BACKGROUND, QUEUE_BUILDS)

JOB_FUNCTION = "faaspot_runner.worker.execute_job"
"""Dotted name in the RQ job; our worker class dispatches on the request itself and never imports by this name."""

PREFIX = "faaspot:"
REPORTS = PREFIX + "reports"
"""Redis stream of events, field ``event`` = JSON. The recorder reads it as consumer group `REPORTS_GROUP`."""
REPORTS_GROUP = "recorder"
SPOTS = PREFIX + "spots"
"""Redis hash: spot address -> JSON of `SpotInfo`, rewritten by each spot every `SPOT_HEARTBEAT_SECONDS`."""
SPOT_HEARTBEAT_SECONDS = 2.0
SPOT_OFFLINE_SECONDS = 10.0
"""A spot whose ``last_seen`` (Redis clock) is older than this is offline."""
CONTROL = PREFIX + "control"
"""Redis pub/sub channel from the API to all spots: JSON of `Cancel`, `Release` or `Runtimes`. A hint: what must not be
missed is also a key: `cancel_key`, `RUNTIMES`, `ENVIRONMENTS`."""
RUNTIMES = PREFIX + "runtimes"
"""Redis string: JSON of the newest `Runtimes`. A spot reads it whenever it subscribes to `CONTROL`."""
ENVIRONMENTS = PREFIX + "environments"
"""JSON list of the environments that versions refer to, written by the reconciler every `ENVIRONMENTS_SECONDS` and gone
soon after it does so no more. Spots remove the others, except those that a build made or took up within
`ENVIRONMENT_YOUNG_SECONDS`: its report may not have been recorded yet."""
ENVIRONMENTS_SECONDS = 60.0
ENVIRONMENT_YOUNG_SECONDS = 3600.0
SUPERVISOR = PREFIX + "supervisor"
"""Redis list of JSON `SpotRequest`; the supervisor of `fas up` pops it (BLMOVE) and adds or removes local spots."""

LEASE_SECONDS = 15.0
LEASE_RENEW_SECONDS = 5.0
"""A worker renews each lease this often, and kills the run if it could not for LEASE_SECONDS - 5 by its own clock."""
LEASE_DONE = "done"
LEASE_DONE_SECONDS = 120
REPLY_SECONDS = 120
CANCEL_SECONDS = 86_400


def job_id(execution_id: str, attempt: int) -> str:
    """RQ job id of one attempt. RQ allows letters, digits, `_` and `-` only."""
    return f"{execution_id}-{attempt}"


def lease_key(execution_id: str, attempt: int) -> str:
    """Value: the attempt's token and which delivery runs it, while it runs; `LEASE_DONE` for a while after it."""
    return f"{PREFIX}lease:{execution_id}:{attempt}"


def reply_key(execution_id: str) -> str:
    """List that gets the JSON of `RunEnded` for a caller who waits (BLPOP)."""
    return f"{PREFIX}reply:{execution_id}"


def cancel_key(execution_id: str) -> str:
    """Exists when the execution was cancelled; a worker looks at the start and at each lease renewal."""
    return f"{PREFIX}cancel:{execution_id}"


def log_key(execution_id: str) -> str:
    """Redis stream, field ``text``: what a run in flight has written so far, for `logs?follow=true`. Expires by itself.

    The whole log travels in `RunEnded`.
    """
    return f"{PREFIX}log:{execution_id}"


# ---------------------------------------------------------------- limits of the wire

MAX_LOG_BYTES = 1024 * 1024
MAX_CODE_BYTES = 4 * 1024 * 1024
MAX_REQUIREMENTS_BYTES = 64 * 1024
MAX_CONTEXT_BYTES = 256 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_SPOT_BYTES = 1024 * 1024
LOG_CUT_MARK = "\n[faaspot: log cut here, {dropped} more bytes were dropped]\n"

# ---------------------------------------------------------------- words

Status = Literal["Pending", "Started", "Success", "Failure", "Cancelled"]
TERMINAL: frozenset[str] = frozenset({"Success", "Failure", "Cancelled"})
Kind = Literal["run", "build", "spot", "delete"]
Reason = Literal[
    "error", "unserialisable", "timeout", "oom", "signal", "limit", "build_failed", "worker_lost", "no_spot",
    "interrupted", "cancelled",
]  # fmt: skip
# ---------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One attempt at one run of `main`. `args` is JSON text of a dict, or they are `large`; `accepted`: epoch seconds.

    `expires`: epoch seconds after which it must not start any more (reason no_spot), None = never. `committed` and
    `queued`: epoch seconds at which its record was on disk, and it was on its way to the queue; 0 where nobody knows.
    `traceparent`: the caller's trace (W3C), which the function finds as `TRACEPARENT`. `elsewhere`: a spot can run it,
    so one that cannot leaves it to another attempt instead of ending it as `no_spot`. `avoid`: lost the last attempt.
    `concurrency`: how many runs of its deployment may be under way at once, 0 without a limit (`contract.lanes`).
    """

    execution_id: str
    attempt: int
    token: str
    sandbox: SandboxSpec
    args: str = "{}"
    large: LargeValue | None = None
    reply: bool = False
    accepted: float = 0.0
    committed: float = 0.0
    queued: float = 0.0
    expires: float | None = None
    traceparent: str | None = None
    elsewhere: bool = False
    avoid: str | None = None
    concurrency: int = 0
    kind: Literal["run"] = "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """Resolve and install the environment of a version. `requirements`: canonical PEP 508 lines, one a line.

    `runtime`: that of the version, for whose system the packages are chosen. `archive`: pack the environment for spots
    on other hosts.
    """

    execution_id: str
    attempt: int
    token: str
    deployment: str
    version: int
    version_id: str
    requirements: str
    python: str
    runtime: str = "sandbox"
    sdist: bool = False
    network: Network = "none"
    accepted: float = 0.0
    timeout: float = 900.0
    archive: bool = False
    avoid: str | None = None
    kind: Literal["build"] = "build"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotRequest:
    """Add or remove a local spot, or let one of another host in and out (`admit`, `dismiss`). `ip` None: any.

    `key`: to which the credentials of an admitted spot are sealed, X25519 in base64 (`contract.spots.Credentials`).
    `expires`: epoch seconds after which nobody waits for it any more, None = it is to be done at any time.
    """

    execution_id: str
    attempt: int
    token: str
    action: Literal["add", "remove", "replace", "refresh", "admit", "dismiss"]
    ip: str | None = None
    key: str | None = None
    expires: float | None = None
    kind: Literal["spot"] = "spot"


# ---------------------------------------------------------------- control


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    execution_id: str
    kind: Literal["cancel"] = "cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """These versions are gone (deployment deleted) or no longer current; free their sandboxes when idle.

    `environments`: names that no version refers to any more; delete them after their last user.
    """

    version_ids: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    kind: Literal["release"] = "release"


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """What the caller may read of a failure. `traceback` begins in the user's file; None where there is none."""

    type: str
    message: str
    traceback: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    execution_id: str
    attempt: int
    token: str
    spot: str
    at: float
    kind: Literal["started"] = "started"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOutcome:
    """`lock`: the lock's full text, which the API stores; `environment`: its name; `packages`: "name==version".

    `archive`: blob digest of the packed environment, if it was packed.
    """

    lock: str | None
    environment: str | None
    packages: tuple[str, ...] = ()
    reused: bool = False
    archive: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """The one end of an attempt. `output`: JSON text (None = JSON null), or it is `large`; for failures see `error`."""

    execution_id: str
    attempt: int
    token: str
    spot: str
    at: float
    status: Status
    reason: Reason | None = None
    output: str | None = None
    large: LargeValue | None = None
    error: Error | None = None
    log: str = ""
    logs_truncated: bool = False
    timings: Timings = field(default_factory=Timings)
    usage: Usage = field(default_factory=Usage)
    build: BuildOutcome | None = None
    traceparent: str | None = None
    kind: Literal["ended"] = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotInfo:
    """What a spot tells of itself with each heartbeat. Times are epoch seconds by Redis' clock (TIME).

    `runtimes`: offered runtime names; `pythons`: minor version -> full version, the first is the default;
    `networks`: offered values; `limits`: "cgroup" or "rlimit"; `status`: online | draining.
    `running`: executions in flight; `stuck`: processes whose death did not come in time. `states`: how each runtime
    stands, the built-in ones that are offered and those that people defined. `egress`: an allow-list is enforced here.
    `remote`: on another host than the API; `rooms`: how many its workers take at once, by queue; `warm`: ids of the
    versions that have a sandbox; `load`: the machine's load average of a minute for each processor.
    """

    ip: str
    created: float
    last_seen: float
    status: Literal["online", "draining"]
    runtimes: tuple[str, ...]
    pythons: dict[str, str]
    networks: tuple[Network, ...]
    limits: Literal["cgroup", "rlimit", "none"]
    workers: dict[str, int] = field(default_factory=dict)
    running: int = 0
    sandboxes: int = 0
    stuck: int = 0
    problems: tuple[str, ...] = ()
    """Why something is not offered, for people: "network internet: iptables was not found"."""
    states: dict[str, RuntimeState] = field(default_factory=dict)
    egress: bool = False
    remote: bool = False
    rooms: dict[str, int] = field(default_factory=dict)
    warm: tuple[str, ...] = ()
    load: float = 0.0

    @property
    def capacity(self) -> int:
        """Runs that its workers take at once."""
        return self.rooms.get(QUEUE_SYNC, 0) + self.rooms.get(QUEUE_BACKGROUND, 0)


# ---------------------------------------------------------------- JSON

Message = RunRequest | BuildRequest | SpotRequest | Cancel | Release | Runtimes | RunStarted | RunEnded


def dump(message: Message | SpotInfo) -> str:
    """Strict, compact JSON text of a message."""
    return json.dumps(_plain(message), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """The same as JSON knows it. `dataclasses.asdict` copies every leaf, and each run has four messages."""
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind in (tuple, list):
        return [_plain(item) for item in value]
    if kind is dict:
        return {name: _plain(item) for name, item in value.items()}
    names = _FIELDS.get(kind)
    if names is None:
        names = _FIELDS[kind] = tuple(each.name for each in fields(value))
    return {name: _plain(getattr(value, name)) for name in names}


_LEAVES = frozenset((str, int, float, bool, type(None)))
_FIELDS: dict[type, tuple[str, ...]] = {}


def load(text: str | bytes) -> Message:
    """The message that `dump` wrote.

    Raises ValueError for anything else: not JSON, unknown kind, missing or unknown field, a value of another type.
    """
    data = json_object(text)
    make = _MAKERS.get(str(data.get("kind")))
    if make is None:
        raise ValueError(f"unknown message kind: {str(data.get('kind'))[:50]!r}")
    try:
        message: Message = exact(make(data))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"malformed {data['kind']} message: {error}") from error
    if isinstance(message, RunStarted | RunEnded):
        of_a_run(message.execution_id, message.spot, message.at)
    if isinstance(message, RunEnded) and message.build is not None:
        of_a_build(message.build.environment, message.build.archive)
    return message


def load_spot(text: str | bytes) -> SpotInfo:
    """The `SpotInfo` that a spot wrote. Raises ValueError if it is not one."""
    if len(text) > MAX_SPOT_BYTES:
        raise ValueError("a spot says too much of itself")
    data = json_object(text)
    try:
        for name in ("runtimes", "networks", "problems", "warm"):
            data[name] = tuple(data.get(name, ()))
        states = {name: RuntimeState(**state) for name, state in data.get("states", {}).items()}
        info = exact(SpotInfo(**{**data, "states": states}))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"malformed spot info: {error}") from error
    moment(info.created, info.last_seen)
    return info


def _ended(data: dict[str, Any]) -> RunEnded:
    build = data["build"]
    return RunEnded(
        **{
            **data,
            "large": LargeValue.of(data.get("large")),
            "error": Error(**data["error"]) if data["error"] else None,
            "timings": Timings(**{**data["timings"], "marks": Marks(**data["timings"].get("marks", {}))}),
            "usage": Usage(**data["usage"]),
            "build": BuildOutcome(**{**build, "packages": tuple(build["packages"])}) if build else None,
        }
    )


def _release(data: dict[str, Any]) -> Release:
    return Release(version_ids=tuple(data["version_ids"]), environments=tuple(data["environments"]))


_MAKERS: dict[str, Any] = {
    "run": lambda data: RunRequest(
        **{**data, "sandbox": sandbox_spec(data["sandbox"]), "large": LargeValue.of(data.get("large"))}
    ),
    "build": lambda data: BuildRequest(**data),
    "spot": lambda data: SpotRequest(**data),
    "cancel": lambda data: Cancel(**data),
    "release": _release,
    "runtimes": runtimes_of,
    "started": lambda data: RunStarted(**data),
    "ended": _ended,
}
