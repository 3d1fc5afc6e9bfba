"""The services in memory, by the signatures of `faaspot_api.services`: for tests of HTTP alone.

Runs happen at once, in this process. A function whose code says ``# never ends`` stays Started until it is cancelled.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import traceback
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from typing import Any

from prometheus_client import CollectorRegistry

from faaspot_api.domain.model import (
    NO_OPTIONS,
    Args,
    Callback,
    CallbackTry,
    Deployment,
    DeploymentChange,
    Execution,
    Filter,
    Page,
    Principal,
    Rerun,
    Reruns,
    RunOptions,
    Runtime,
    Settings,
    Spot,
    Token,
    Version,
)
from faaspot_api.domain.names import name_error
from faaspot_api.domain.runtimes import problems
from faaspot_api.errors import Conflict, FieldError, Forbidden, Invalid, NotFound, Unauthorized, Unprocessable
from faaspot_api.metrics import Metrics
from faaspot_api.services.doctor import Check, Examination
from faaspot_api.services.executions import Text
from faaspot_api.services.joining import Admission
from faaspot_runner.contract import LargeValue
from faaspot_runner.contract.runtimes import RuntimeDefinition

ADMIN_TOKEN = "fas_test-admin-token"
ENDED = ("Success", "Failure", "Cancelled")
DEFAULTS = Settings(
    timeout=60.0, memory=256, pids=64, tmp=64, network="none", python="3.12", runtime="sandbox", sdist=False,
    description="",
)  # fmt: skip

SANDBOX = Runtime(
    name="sandbox", type="sandbox", config={}, wraps=None, lazy=True, external=False, status="deployed", error=None,
    users=(),
)  # fmt: skip


class Clock:
    """Moments that only grow, a millisecond each."""

    def __init__(self) -> None:
        self._now = datetime(2026, 11, 21, tzinfo=UTC)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        with self._lock:
            self._now += timedelta(milliseconds=1)
            return self._now


@dataclass
class State:
    """What all the fakes share."""

    clock: Clock = field(default_factory=Clock)
    deployments: dict[str, list[Version]] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    current: dict[str, int] = field(default_factory=dict)
    executions: dict[str, Execution] = field(default_factory=dict)
    spots: dict[str, Spot] = field(default_factory=dict)
    runtimes: dict[str, Runtime] = field(default_factory=lambda: {"sandbox": SANDBOX})
    tokens: dict[str, Token] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=lambda: {"database": "ok", "queue": "ok"})
    checks: list[Check] = field(
        default_factory=lambda: [Check(section="parts", name="queue", answer="ok", text="Redis")]
    )
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    next_end: dict[str, Any] | None = None
    """Fields of the record with which the next awaited run ends, whatever its function does."""

    def record(self, kind: Any, name: str, **more: Any) -> Execution:
        now = self.clock.now()
        known: dict[str, Any] = {
            "uuid": str(uuid.uuid4()), "name": name, "deployment": name if kind != "spot" else None, "version": 1,
            "kind": kind, "status": "Success", "reason": None, "output": None, "error": None, "args": None,
            "created": now, "started": now, "ended": now, "spot": "127.0.0.1", "attempt": 1,
            "timings": {"run_ms": 1.5, "cold": False}, "usage": {"max_memory_mb": 10.0}, "logs_truncated": False,
            "owner": "admin",
        }  # fmt: skip
        execution = Execution(**{**known, **more})
        self.executions[execution.uuid] = execution
        return execution


class FakeDeployments:
    def __init__(self, state: State) -> None:
        self._state = state

    def _known(self, name: str) -> list[Version]:
        if name not in self._state.deployments:
            raise NotFound(f"There is no deployment {name!r}.")
        return self._state.deployments[name]

    def _add(self, name: str, change: DeploymentChange, number: int, base: Version | None) -> str:
        state = self._state
        code = change.code if change.code is not None else state.codes[base.id] if base else ""
        if "def main" not in code:
            raise Invalid.fields(FieldError(field="code", message="has no main(args, context)", line=1))
        build = state.record("build", name, output=json.dumps(f"version {number} is ready"), version=number)
        keys = tuple(change.context) if isinstance(change.context, dict) else _keys(str(change.context or ""))
        said = {key: getattr(change.settings, key) for key in Settings.__slots__}
        settings = replace(DEFAULTS, **{key: value for key, value in said.items() if value is not None})
        version = Version(
            id=uuid.uuid4().hex, number=number, code="0" * 64, requirements=change.requirements or "", lock=None,
            environment=None, context_keys=keys, settings=settings, status="success", reason=None,
            build=build.uuid, created=state.clock.now(),
        )  # fmt: skip
        state.codes[version.id] = code
        state.deployments.setdefault(name, []).append(version)
        state.current[name] = number
        return build.uuid

    def create(self, who: Principal, name: str, change: DeploymentChange) -> str:
        self._state.calls.append(("create", (name, change)))
        problem = name_error(name)
        if problem:
            raise Invalid.fields(problem)
        if name in self._state.deployments:
            raise Conflict(f"A deployment {name!r} exists already; update it instead.", code="exists")
        return self._add(name, change, 1, None)

    def update(self, who: Principal, name: str, change: DeploymentChange) -> str:
        self._state.calls.append(("update", (name, change)))
        versions = self._known(name)
        build = self._add(name, change, len(versions) + 1, versions[-1])
        if change.name and change.name != name:
            self._state.deployments[change.name] = self._state.deployments.pop(name)
            self._state.current[change.name] = self._state.current.pop(name)
        return build

    def delete(self, who: Principal, name: str) -> str:
        self._known(name)
        del self._state.deployments[name]
        return self._state.record("delete", name, output='"deleted"').uuid

    def get(self, who: Principal, name: str) -> Deployment:
        versions = self._known(name)
        version = versions[self._state.current[name] - 1]
        return Deployment(
            id="d" * 32, name=name, owner="admin", version=version, status=version.status, reason=None,
            build=version.build, created=versions[0].created, updated=versions[-1].created,
        )  # fmt: skip

    def list(self, who: Principal) -> tuple[Deployment, ...]:
        return tuple(self.get(who, name) for name in sorted(self._state.deployments))

    def versions(self, who: Principal, name: str) -> tuple[Version, ...]:
        return tuple(self._known(name))

    def version(self, who: Principal, name: str, number: int) -> Version:
        versions = self._known(name)
        if number > len(versions):
            raise NotFound(f"There is no version {number} of {name!r}.")
        return versions[number - 1]

    def rollback(self, who: Principal, name: str, number: int) -> str:
        self.version(who, name, number)
        self._state.current[name] = number
        return self._state.record("build", name, output=json.dumps(f"version {number} is current")).uuid

    def code(self, version: Version) -> str:
        return self._state.codes[version.id]

    def lock(self, version: Version) -> str | None:
        return version.lock


def _keys(text: str) -> tuple[str, ...]:
    return tuple(line.split("=")[0].strip() for line in text.splitlines() if "=" in line)


class FakeExecutions:
    def __init__(self, state: State, deployments: FakeDeployments) -> None:
        self._state = state
        self._deployments = deployments
        self._keys: dict[str, tuple[tuple[Any, ...], str]] = {}
        self.rerun: set[str] = set()
        """Those that were run again."""

    def run(self, who: Principal, name: str, args: Args, options: RunOptions = NO_OPTIONS) -> Execution:
        self._state.calls.append(("run", (name, args) if options == NO_OPTIONS else (name, args, options)))
        if options.key is not None:
            request = (name, args, options.max_age)
            known, uuid = self._keys.setdefault(options.key, (request, ""))
            if known != request:
                raise Unprocessable("This key was used for another request.", execution_id=uuid)
            if uuid:
                return self.get(who, uuid)
            execution = self.run(who, name, args)
            self._keys[options.key] = (request, execution.uuid)
            return execution
        deployment = self._deployments.get(who, name)
        code = self._state.codes[deployment.version.id]
        known = {"version": deployment.version.number, "traceparent": options.traceparent}
        if isinstance(args, LargeValue):
            return self._state.record("run", name, args_blob=args.digest, args_size=args.size, output="null", **known)
        known["args"] = args
        if "# never ends" in code:
            return self._state.record("run", name, status="Started", ended=None, **known)
        space: dict[str, Any] = {}
        try:
            exec(code, space)
            output = json.dumps(space["main"](json.loads(args), {}), ensure_ascii=False)
        except Exception as failed:  # noqa: BLE001 - whatever the function raises
            error = {"type": type(failed).__name__, "message": str(failed), "traceback": traceback.format_exc()}
            line = json.dumps(f"{error['type']}: {error['message'].splitlines()[0]}")
            return self._state.record("run", name, status="Failure", reason="error", error=error, output=line, **known)
        return self._state.record("run", name, output=output, **known)

    def run_bulk(self, who: Principal, name: str, args: Sequence[str], options: RunOptions = NO_OPTIONS) -> list[str]:
        keyed = (replace(options, key=options.key and f"{options.key}-{n}") for n, _ in enumerate(args))
        return [self.run(who, name, one, each).uuid for one, each in zip(args, keyed, strict=True)]

    def run_wait(
        self,
        who: Principal,
        name: str,
        args: Args,
        wait: float | None,
        gone: Any = None,
        options: RunOptions = NO_OPTIONS,
    ) -> tuple[Execution, bool]:
        self._state.calls.append(("run_wait", (name, args, wait)))
        execution = self.run(who, name, args, options)
        if self._state.next_end is not None:
            execution = replace(execution, **self._state.next_end)
            self._state.next_end = None
            self._state.executions[execution.uuid] = execution
        return execution, execution.status in ENDED

    def wait(self, who: Principal, uuid: str, seconds: float) -> Execution:
        return self.get(who, uuid)

    def get(self, who: Principal, uuid: str) -> Execution:
        if uuid not in self._state.executions:
            raise NotFound("There is no execution with this id.")
        return self._state.executions[uuid]

    def get_bulk(self, who: Principal, uuids: Sequence[str], wait: float = 0.0, gone: Any = None) -> list[Execution]:
        self._state.calls.append(("get_bulk", (tuple(uuids), wait)))
        unknown = [one for one in uuids if one not in self._state.executions]
        if unknown:
            raise NotFound(f"Unknown executions: {', '.join(unknown)}", extra={"unknown": unknown})
        return [self._state.executions[one] for one in uuids]

    def list(self, who: Principal, wanted: Filter, limit: int, cursor: str | None) -> Page:
        self._state.calls.append(("list", (wanted, limit, cursor)))
        if cursor is not None and not cursor.isdigit():
            raise Invalid.fields(FieldError(field="cursor", message="is not one that we gave"))
        found = [one for one in reversed(self._state.executions.values()) if _matches(one, wanted)]
        if wanted.rerun is not None:
            found = [one for one in found if (one.uuid in self.rerun) == wanted.rerun]
        start = int(cursor or 0)
        more = start + limit < len(found)
        return Page(items=tuple(found[start : start + limit]), cursor=str(start + limit) if more else None)

    def cancel(self, who: Principal, uuid: str) -> Execution:
        execution = self.get(who, uuid)
        if execution.status in ENDED:
            raise Conflict("It has ended already.", code="already_ended", execution_id=uuid)
        more = {"ended": self._state.clock.now(), "output": '"Cancelled by admin."'}
        ended = replace(execution, status="Cancelled", reason="cancelled", **more)
        self._state.executions[uuid] = ended
        return ended

    def output(self, who: Principal, uuid: str) -> Text:
        execution = self.get(who, uuid)
        if execution.ended is None:
            raise Conflict("It has not ended.")
        return self.output_of(execution)

    def output_of(self, execution: Execution) -> Text:
        text = (execution.output or "null") if execution.output_size is None else '"' + "x" * 98 + '"'
        return Text(size=len(text), pieces=iter([text.encode()]))

    def args(self, who: Principal, uuid: str) -> Text:
        execution = self.get(who, uuid)
        text = (execution.args or "null") if execution.args_size is None else '{"x":"' + "x" * 92 + '"}'
        return Text(size=len(text), pieces=iter([text.encode()]))

    def take_args(self, who: Principal, name: str, pieces: Iterable[bytes]) -> LargeValue:
        taken = b"".join(pieces)
        self._state.calls.append(("take_args", (name, len(taken))))
        return LargeValue(digest=hashlib.sha256(taken).hexdigest(), size=len(taken))

    def logs(self, who: Principal, uuid: str) -> str:
        self.get(who, uuid)
        return "first line\nsecond line \ud800\n"

    def follow(self, who: Principal, uuid: str, gone: Any = None) -> Iterator[str]:
        self.get(who, uuid)
        return iter(["first line\n", "second line\n"])


class FakeCallbacks:
    """Every ended run has told of its end at the second try."""

    def __init__(self, executions: FakeExecutions) -> None:
        self._executions = executions

    def secret(self, who: Principal) -> str:
        return "whsec_" + who.name

    def of(self, who: Principal, uuid: str) -> Callback:
        execution = self._executions.get(who, uuid)
        if execution.ended is None:
            return Callback(origin="https://example.com", status="waiting", next=None, tries=())
        failed = CallbackTry(at=execution.ended, status=None, error="no answer within 10 s", ms=10_000)
        done = CallbackTry(at=execution.ended, status=204, error=None, ms=12)
        return Callback(origin="https://example.com", status="delivered", next=None, tries=(failed, done))


class FakeReruns:
    """Runs again what the fake executions hold."""

    def __init__(self, state: State, executions: FakeExecutions) -> None:
        self._state = state
        self._executions = executions
        self._done = executions.rerun

    def rerun(self, who: Principal, uuid: str) -> str:
        old = self._executions.get(who, uuid)
        if old.status not in ENDED:
            raise Conflict("It has not ended.", execution_id=uuid)
        self._done.add(uuid)
        return self._executions.run(who, old.name, old.args or "{}").uuid

    def rerun_all(self, who: Principal, wanted: Filter, limit: int, cursor: str | None) -> Reruns:
        self._state.calls.append(("rerun_all", (wanted, limit, cursor)))
        status = wanted.status or (None if wanted.reason else "Failure")
        found = [
            one for one in reversed(self._state.executions.values()) if _matches(one, replace(wanted, status=status))
        ]
        due = [one for one in found if one.kind == "run" and one.uuid not in self._done][:limit]
        items = []
        for one in due:
            if one.name in self._state.deployments:
                items.append(Rerun(of=one.uuid, uuid=self.rerun(who, one.uuid)))
            else:
                items.append(Rerun(of=one.uuid, message="Its deployment was deleted."))
        return Reruns(items=tuple(items), cursor="1" if items and items[0].uuid and cursor is None else None)


def _matches(one: Execution, wanted: Filter) -> bool:
    said = wanted.status or wanted.reason
    return (
        (one.status == wanted.status if wanted.status else bool(said) or wanted.ended or one.status not in ENDED)
        and wanted.reason in (None, one.reason)
        and wanted.deployment in (None, one.deployment)
        and (wanted.since is None or one.created >= wanted.since)
        and (wanted.until is None or one.created < wanted.until)
    )


class FakeSpots:
    def __init__(self, state: State) -> None:
        self._state = state
        self._add()

    def _add(self) -> str:
        ip = next(f"127.0.0.{n}" for n in range(1, 255) if f"127.0.0.{n}" not in self._state.spots)
        now = self._state.clock.now()
        self._state.spots[ip] = Spot(
            ip=ip, created=now, last_seen=now, status="online", runtimes=("sandbox",), pythons={"3.12": "3.12.1"},
            networks=("none",), limits="cgroup", workers={"sync": 2}, running=0, sandboxes=0, problems=(), remote=False,
            capacity=128, load=0.1, egress=False, min_workers=None, max_workers=None,
        )  # fmt: skip
        return ip

    def _task(self, ip: str) -> str:
        return self._state.record("spot", ip, output=json.dumps(ip), version=None).uuid

    def list(self, who: Principal) -> tuple[Spot, ...]:
        return tuple(self._state.spots.values())

    def get(self, who: Principal, ip: str) -> Spot:
        if ip not in self._state.spots:
            raise NotFound("There is no spot with this address.")
        return self._state.spots[ip]

    def add(self, who: Principal) -> str:
        return self._task(self._add())

    def remove(self, who: Principal, ip: str | None) -> str:
        if ip is None and not self._state.spots:
            raise Conflict("There is no spot to remove.")
        chosen = next(iter(self._state.spots)) if ip is None else ip
        self.get(who, chosen)
        del self._state.spots[chosen]
        return self._task(chosen)

    def replace(self, who: Principal, ip: str) -> str:
        self.get(who, ip)
        return self._task(ip)

    def update(self, who: Principal, least: int | None, most: int | None, ip: str | None = None) -> dict[str, Any]:
        self._state.calls.append(("update_spots", (least, most)))
        if least is not None and most is not None and least > most:
            raise Invalid.fields(FieldError(field="min_workers", message="must not be above max_workers"))
        return {"min_workers": least, "max_workers": most, "applied": True}

    def drain(self, who: Principal, ip: str, draining: bool) -> Spot:
        status: Any = "draining" if draining else "online"
        self._state.spots[ip] = replace(self.get(who, ip), status=status)
        return self._state.spots[ip]

    def refresh(self, who: Principal, ip: str) -> str:
        if ip != "all":
            self.get(who, ip)
        return self._task(ip)


class FakeJoining:
    """Lets everybody in, and keeps blobs in memory."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def join(self, who: Principal, ip: str, key: str) -> Admission:
        try:
            address = str(ip_address(ip))
        except ValueError:
            raise Invalid.fields(FieldError(field="ip", message="must be an IP address")) from None
        return Admission(ip=address, token="fas_spot", credentials="c2VhbGVk")

    def blob(self, who: Principal, digest: str) -> tuple[int, Iterator[bytes]]:
        if digest not in self._blobs:
            raise NotFound(f"There is no blob {digest}.")
        return len(self._blobs[digest]), iter([self._blobs[digest]])

    def keep_blob(self, who: Principal, digest: str, size: int, pieces: Iterable[bytes]) -> None:
        content = b"".join(pieces)
        if sha256(content).hexdigest() != digest:
            raise Invalid.fields(FieldError(field="body", message="has another digest"))
        self._blobs[digest] = content


class FakeRuntimes:
    """Runtimes that come up at the second look."""

    def __init__(self, state: State) -> None:
        self._state = state

    def list(self, who: Principal) -> tuple[Runtime, ...]:
        moving = {"deploying": "deployed", "undeploying": "undeployed"}
        found = tuple(self._state.runtimes.values())
        for each in found:
            if each.config.get("image") == "broken" and each.status == "deploying":
                self._state.runtimes[each.name] = replace(each, status="failed", error="127.0.0.1: no such image")
            else:
                self._state.runtimes[each.name] = replace(each, status=moving.get(each.status, each.status))
        return found

    def get(self, who: Principal, name: str) -> Runtime:
        for each in self.list(who):
            if each.name == name:
                return each
        raise NotFound("There is no runtime of this name.")

    def create(self, who: Principal, definition: RuntimeDefinition) -> Runtime:
        self._admin(who)
        if bad := problems(definition, {}):
            raise Invalid.fields(*bad)
        if definition.name in self._state.runtimes:
            raise Conflict("It exists.", code="exists")
        said = {name: getattr(definition, name) for name in RuntimeDefinition.__slots__}
        self._state.runtimes[definition.name] = Runtime(**said, status="undeployed", error=None, users=())
        return self._state.runtimes[definition.name]

    def delete(self, who: Principal, name: str) -> None:
        self._changed(who, name, "deleted")
        del self._state.runtimes[name]

    def deploy(self, who: Principal, name: str) -> Runtime:
        return self._changed(who, name, "deploying")

    def undeploy(self, who: Principal, name: str) -> Runtime:
        return self._changed(who, name, "undeploying")

    def _changed(self, who: Principal, name: str, status: Any) -> Runtime:
        self._admin(who)
        if self.get(who, name).name == "sandbox":
            raise Conflict("It is built in.")
        self._state.runtimes[name] = replace(self._state.runtimes[name], status=status, error=None)
        return self._state.runtimes[name]

    def _admin(self, who: Principal) -> None:
        if who.role != "admin":
            raise Forbidden("Only an admin may do this.")


class FakeTokens:
    def __init__(self, state: State) -> None:
        self._state = state
        self._store("admin", "admin", (), ADMIN_TOKEN)

    def _store(self, name: str, role: Any, spots: tuple[str, ...], text: str) -> Token:
        token = Token(name=name, role=role, spots=spots, created=self._state.clock.now())
        self._state.tokens[name] = token
        self._state.texts[text] = name
        return token

    def authenticate(self, text: str) -> Principal:
        name = self._state.texts.get(text)
        if name is None or name not in self._state.tokens:
            raise Unauthorized
        token = self._state.tokens[name]
        return Principal(name=token.name, role=token.role, spots=token.spots)

    def _admin(self, who: Principal) -> None:
        if who.role != "admin":
            raise Forbidden("Only an admin may do this.")

    def list(self, who: Principal) -> tuple[Token, ...]:
        self._admin(who)
        return tuple(self._state.tokens.values())

    def create(self, who: Principal, name: str, role: Any, spots: tuple[str, ...]) -> tuple[Token, str]:
        self._admin(who)
        if name in self._state.tokens:
            raise Conflict(f"A token {name!r} exists already.", code="exists")
        text = f"fas_{uuid.uuid4().hex}"
        return self._store(name, role, spots, text), text

    def revoke(self, who: Principal, name: str) -> None:
        self._admin(who)
        if name == who.name:
            raise Conflict("A token cannot revoke itself.")
        if self._state.tokens.pop(name, None) is None:
            raise NotFound(f"There is no token {name!r}.")


class FakeHealth:
    def __init__(self, state: State) -> None:
        self._state = state

    def ready(self) -> dict[str, str]:
        return self._state.parts


class FakeDoctor:
    def __init__(self, state: State) -> None:
        self._state = state

    def examine(self, who: Principal) -> Examination:
        return Examination(version="9.9", time=time.time(), checks=tuple(self._state.checks))


class FakeFigures:
    is_open = False

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def text(self, who: Principal | None) -> bytes:
        if who is not None and who.role not in ("admin", "monitor"):
            raise Forbidden("Only a token of role admin or monitor may do this.")
        return self._metrics.text(CollectorRegistry())


class FakeServices:
    """All of them over one `State`."""

    def __init__(self) -> None:
        self.state = State()
        self.deployments = FakeDeployments(self.state)
        self.executions = FakeExecutions(self.state, self.deployments)
        self.reruns = FakeReruns(self.state, self.executions)
        self.callbacks = FakeCallbacks(self.executions)
        self.spots = FakeSpots(self.state)
        self.joining = FakeJoining()
        self.runtimes = FakeRuntimes(self.state)
        self.tokens = FakeTokens(self.state)
        self.health = FakeHealth(self.state)
        self.metrics = Metrics()
        self.doctor = FakeDoctor(self.state)
        self.figures = FakeFigures(self.metrics)
