"""Named function packages: create, change, run, roll back."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, Unpack
from urllib.parse import unquote

from faaspot import _calls
from faaspot import _executions as executions
from faaspot._calls import Conversation
from faaspot._mapping import LOOK_AHEAD, Flow
from faaspot._session import AsyncSession, Session
from faaspot._source import Source, encoded, read
from faaspot.errors import BadArgument, Restarting
from faaspot.types import Deployment, Execution, RunFields, SettingsFields, Version

Args: TypeAlias = Mapping[str, Any]
Context: TypeAlias = str | Mapping[str, Any]

SYNC_SECONDS = 1000.0
"""The longest that a sync answer may take: the server's own limit for sync runs (900 s), its queueing, and a margin."""


# ---------------------------------------------------------------- calls


def _path(name: str, *more: str) -> str:
    return "/".join(("deployments", _calls.segment(name), *more))


def _package(
    file: Source | None,
    requirements_file: Source | None,
    context_file: Source | None,
    code: str | None,
    requirements: str | None,
    context: Context | None,
) -> dict[str, Any]:
    """The parts that were given, read and encoded. All files are read before anything is sent."""
    texts = {
        "code": _one("code", "file", code, file),
        "requirements": _one("requirements", "requirements_file", requirements, requirements_file),
    }
    body: dict[str, Any] = {name: encoded(text, name) for name, text in texts.items() if text is not None}
    if isinstance(context, Mapping):
        if context_file is not None:
            raise BadArgument("Give context or context_file, not both")
        body["context"] = dict(context)
    elif (text := _one("context", "context_file", context, context_file)) is not None:
        body["context"] = encoded(text, "context, if it is no mapping,")
    return body


def _one(name: str, file_name: str, text: str | None, file: Source | None) -> str | None:
    if text is not None and file is not None:
        raise BadArgument(f"Give {name} or {file_name}, not both")
    return read(file) if file is not None else text


def _create(
    name: str, package: Mapping[str, Any], settings: Mapping[str, Any], wait: bool
) -> Conversation[str | Execution]:
    if "code" not in package:
        raise BadArgument("A deployment needs code: give file=PATH or code=TEXT")
    body = {"name": name, **package, **_given(settings)}
    uuid = _calls.uuid_of((yield from _calls.ask(_calls.send("PUT", "deployments/", body))))
    return (yield from executions.succeeded(uuid, wait))


def _update(
    name: str, package: Mapping[str, Any], new_name: str | None, settings: Mapping[str, Any], wait: bool
) -> Conversation[str | Execution]:
    body = {**package, **_given({"name": new_name, **settings})}
    if not body:
        raise BadArgument("Nothing to update: give a file, a new name or a setting")
    uuid = _calls.uuid_of((yield from _calls.ask(_calls.send("PATCH", _path(name), body))))
    return (yield from executions.succeeded(uuid, wait))


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _get(name: str) -> Conversation[Deployment]:
    return Deployment(_plain((yield from _calls.ask(_calls.get(_path(name))))))


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose `code` is text, not its percent-encoded form."""
    code = record.get("code")
    return {**record, "code": unquote(code)} if isinstance(code, str) else record


def _list() -> Conversation[list[Deployment]]:
    return [Deployment(_plain(each)) for each in (yield from _calls.ask(_calls.get("deployments/")))]


def _delete(name: str, wait: bool) -> Conversation[str | Execution]:
    uuid = _calls.uuid_of((yield from _calls.ask(_calls.send("DELETE", _path(name)))))
    return (yield from executions.succeeded(uuid, wait))


def _versions(name: str) -> Conversation[list[Version]]:
    return [Version(_plain(each)) for each in (yield from _calls.ask(_calls.get(_path(name, "versions"))))]


def _version(name: str, number: int) -> Conversation[Version]:
    return Version(_plain((yield from _calls.ask(_calls.get(_path(name, "versions", _number(number)))))))


def _number(version: int) -> str:
    try:
        return str(int(version))
    except (TypeError, ValueError):
        raise BadArgument(f"A version is a whole number, not {version!r}") from None


def _rollback(name: str, version: int, wait: bool) -> Conversation[str | Execution]:
    request = _calls.send("POST", _path(name, "rollback"), {"version": version})
    uuid = _calls.uuid_of((yield from _calls.ask(request)))
    return (yield from executions.succeeded(uuid, wait))


def _run(
    name: str, args: Args | Path | Sequence[Args] | None, wait: bool, timeout: float | None, options: RunFields
) -> Conversation[Any]:
    if isinstance(args, Sequence) and not isinstance(args, str | bytes):
        return (yield from _run_bulk(name, args, wait, False, options))
    body, headers = _arguments(args), _headers(options)
    safe = "idempotency_key" in options  # sent again it is the same execution
    if not wait:
        request = _calls.send("POST", _path(name, "rpc/"), body, headers=headers, safe=safe)
        return _calls.uuid_of((yield from _calls.ask(request)))
    if timeout is not None:
        headers["Prefer"] = f"wait={_calls.seconds(timeout):.3f}"
    path = f"sync/{_path(name, 'rpc/')}"
    request = _calls.send("POST", path, body, headers=headers, timeout=SYNC_SECONDS, safe=safe and timeout is None)
    try:
        return (yield from _calls.ask(request))
    except Restarting as error:  # who held our wait goes; the run does not
        if error.execution_id is None:
            raise
        return executions.outcome((yield from executions.until_ended(error.execution_id, timeout)), False)


def _headers(options: RunFields) -> dict[str, str]:
    """The headers by which a run is told more than its args."""
    headers: dict[str, str] = {}
    if "idempotency_key" in options:
        headers["Idempotency-Key"] = str(options["idempotency_key"])
    if "max_age" in options:
        headers["Max-Queue-Age"] = f"{_calls.seconds(options['max_age'], 'max_age'):.6f}"
    if "callback_url" in options:
        headers["Callback-Url"] = str(options["callback_url"])
    return headers


def _arguments(args: Any) -> dict[str, Any] | Path | None:
    """The body of a run. None for no arguments, so that the request has no body, as the first clients send it."""
    if isinstance(args, Path):
        return args
    return None if args is None else _calls.mapping(args, "args") or None


def _run_bulk(
    name: str, items: Iterable[Args], wait: bool, return_exceptions: bool, options: RunFields
) -> Conversation[list[Any]]:
    if isinstance(items, str | Mapping) or not isinstance(items, Iterable):
        raise BadArgument(f"run_bulk takes a list of mappings, one for each run, not {type(items).__name__}")
    body = [_calls.mapping(each, f"item {number}") for number, each in enumerate(items)]
    safe = "idempotency_key" in options
    request = _calls.send("POST", _path(name, "bulk_rpc/"), body, headers=_headers(options), safe=safe)
    uuids = [str(each) for each in (yield from _calls.ask(request))]
    if not wait:
        return list(uuids)
    return (yield from executions.results(uuids, return_exceptions))


def _flow(name: str, look_ahead: int, return_exceptions: bool, return_records: bool) -> Flow:
    return Flow(_path(name, "bulk_rpc/"), look_ahead, return_exceptions, return_records)


# ---------------------------------------------------------------- resources


class Deployments:
    """``f.deployments``, also ``f.functions``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(
        self,
        name: str,
        file: Source | None = None,
        requirements_file: Source | None = None,
        context_file: Source | None = None,
        wait: bool = False,
        *,
        code: str | None = None,
        requirements: str | None = None,
        context: Context | None = None,
        **settings: Unpack[SettingsFields],
    ) -> str | Execution:
        """Make a deployment of a file (a path or an open one), or of text: `code`, `requirements`, `context`.

        Gives the build's execution id; with `wait` the build's record once it succeeded, or its `RunError`.
        A context is kept by the platform, secret, and never sent with a run.
        """
        package = _package(file, requirements_file, context_file, code, requirements, context)
        return self._session.hold(_create(name, package, settings, wait))

    def update(
        self,
        name: str,
        file: Source | None = None,
        requirements_file: Source | None = None,
        context_file: Source | None = None,
        new_name: str | None = None,
        wait: bool = False,
        *,
        code: str | None = None,
        requirements: str | None = None,
        context: Context | None = None,
        **settings: Unpack[SettingsFields],
    ) -> str | Execution:
        """Make a new version from what is given; all else stays. Gives what `create` gives."""
        package = _package(file, requirements_file, context_file, code, requirements, context)
        return self._session.hold(_update(name, package, new_name, settings, wait))

    def get(self, name: str) -> Deployment:
        """One deployment, its code as plain text."""
        return self._session.hold(_get(name))

    def list(self) -> builtins.list[Deployment]:
        """All deployments that the token may see."""
        return self._session.hold(_list())

    def delete(self, name: str, wait: bool = False) -> str | Execution:
        """Delete it; the records of its executions stay. The execution id, or with `wait` its record."""
        return self._session.hold(_delete(name, wait))

    def versions(self, name: str) -> builtins.list[Version]:
        """Its versions, as the platform orders them."""
        return self._session.hold(_versions(name))

    def version(self, name: str, number: int) -> Version:
        """One of its versions."""
        return self._session.hold(_version(name, number))

    def rollback(self, name: str, version: int, wait: bool = False) -> str | Execution:
        """Make an earlier version current again, without a build. The execution id, or with `wait` its record."""
        return self._session.hold(_rollback(name, version, wait))

    def run(
        self,
        name: str,
        args: Args | Path | Sequence[Args] | None = None,
        wait: bool = False,
        *,
        timeout: float | None = None,
        **options: Unpack[RunFields],
    ) -> Any:
        """Run it: the execution id, or with `wait` what `main` returned, or the `RunError` of its failure.

        `args` keep their JSON types; a `Path` is a file that has them as JSON, up to 1 GB. A list of them runs each
        (see `run_bulk`). `timeout`: seconds to wait, then `WaitTimeout`; the run goes on. `options`: see `RunFields`.
        """
        return self._session.hold(_run(name, args, wait, timeout, options))

    def run_bulk(
        self,
        name: str,
        items: Iterable[Args],
        wait: bool = False,
        *,
        return_exceptions: bool = False,
        **options: Unpack[RunFields],
    ) -> builtins.list[Any]:
        """Run it once for each of `items`: the execution ids, or with `wait` the results, in the order of `items`.

        Of runs that failed the first raises its `RunError`; with `return_exceptions` each stands in its place in the
        list.
        """
        return self._session.hold(_run_bulk(name, items, wait, return_exceptions, options))

    def map(
        self,
        name: str,
        items: Iterable[Args],
        *,
        look_ahead: int = LOOK_AHEAD,
        return_exceptions: bool = False,
        return_records: bool = False,
    ) -> Iterator[Any]:
        """Yield the result of a run for each of `items`, in their order.

        Never more than `look_ahead` runs are under way, and `items` is read no further than that, so it may be endless.
        A failed run raises its `RunError`, or with `return_exceptions` yields it; with `return_records` the record of
        each is yielded, however it ended. Runs that were started ahead of a loop that is left early go on.
        """
        flow, hold = _flow(name, look_ahead, return_exceptions, return_records), self._session.hold
        for args in items:
            hold(flow.take(args))
            while flow.full:
                yield hold(flow.result())
        hold(flow.send())
        while flow.under_way:
            yield hold(flow.result())


class AsyncDeployments:
    """As `Deployments`, on asyncio."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def create(
        self,
        name: str,
        file: Source | None = None,
        requirements_file: Source | None = None,
        context_file: Source | None = None,
        wait: bool = False,
        *,
        code: str | None = None,
        requirements: str | None = None,
        context: Context | None = None,
        **settings: Unpack[SettingsFields],
    ) -> str | Execution:
        """Make a deployment of a file (a path or an open one), or of text: `code`, `requirements`, `context`.

        Gives the build's execution id; with `wait` the build's record once it succeeded, or its `RunError`.
        A context is kept by the platform, secret, and never sent with a run.
        """
        package = _package(file, requirements_file, context_file, code, requirements, context)
        return await self._session.hold(_create(name, package, settings, wait))

    async def update(
        self,
        name: str,
        file: Source | None = None,
        requirements_file: Source | None = None,
        context_file: Source | None = None,
        new_name: str | None = None,
        wait: bool = False,
        *,
        code: str | None = None,
        requirements: str | None = None,
        context: Context | None = None,
        **settings: Unpack[SettingsFields],
    ) -> str | Execution:
        """Make a new version from what is given; all else stays. Gives what `create` gives."""
        package = _package(file, requirements_file, context_file, code, requirements, context)
        return await self._session.hold(_update(name, package, new_name, settings, wait))

    async def get(self, name: str) -> Deployment:
        """One deployment, its code as plain text."""
        return await self._session.hold(_get(name))

    async def list(self) -> builtins.list[Deployment]:
        """All deployments that the token may see."""
        return await self._session.hold(_list())

    async def delete(self, name: str, wait: bool = False) -> str | Execution:
        """Delete it; the records of its executions stay. The execution id, or with `wait` its record."""
        return await self._session.hold(_delete(name, wait))

    async def versions(self, name: str) -> builtins.list[Version]:
        """Its versions, as the platform orders them."""
        return await self._session.hold(_versions(name))

    async def version(self, name: str, number: int) -> Version:
        """One of its versions."""
        return await self._session.hold(_version(name, number))

    async def rollback(self, name: str, version: int, wait: bool = False) -> str | Execution:
        """Make an earlier version current again, without a build. The execution id, or with `wait` its record."""
        return await self._session.hold(_rollback(name, version, wait))

    async def run(
        self,
        name: str,
        args: Args | Path | Sequence[Args] | None = None,
        wait: bool = False,
        *,
        timeout: float | None = None,
        **options: Unpack[RunFields],
    ) -> Any:
        """Run it: the execution id, or with `wait` what `main` returned, or the `RunError` of its failure.

        `args` keep their JSON types; a `Path` is a file that has them as JSON, up to 1 GB. A list of them runs each
        (see `run_bulk`). `timeout`: seconds to wait, then `WaitTimeout`; the run goes on. `options`: see `RunFields`.
        """
        return await self._session.hold(_run(name, args, wait, timeout, options))

    async def run_bulk(
        self,
        name: str,
        items: Iterable[Args],
        wait: bool = False,
        *,
        return_exceptions: bool = False,
        **options: Unpack[RunFields],
    ) -> builtins.list[Any]:
        """Run it once for each of `items`: the execution ids, or with `wait` the results, in the order of `items`.

        Of runs that failed the first raises its `RunError`; with `return_exceptions` each stands in its place in the
        list.
        """
        return await self._session.hold(_run_bulk(name, items, wait, return_exceptions, options))

    async def map(
        self,
        name: str,
        items: Iterable[Args] | AsyncIterable[Args],
        *,
        look_ahead: int = LOOK_AHEAD,
        return_exceptions: bool = False,
        return_records: bool = False,
    ) -> AsyncIterator[Any]:
        """As `Deployments.map`; `items` may be asynchronous, too."""
        flow, hold = _flow(name, look_ahead, return_exceptions, return_records), self._session.hold
        async for args in _asynchronous(items):
            await hold(flow.take(args))
            while flow.full:
                yield await hold(flow.result())
        await hold(flow.send())
        while flow.under_way:
            yield await hold(flow.result())


async def _asynchronous(items: Iterable[Args] | AsyncIterable[Args]) -> AsyncIterator[Args]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
