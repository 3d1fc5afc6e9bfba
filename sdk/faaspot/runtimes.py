"""Where code runs on a spot: list, define, bring up and down. Changing them is for administrators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faaspot import _calls
from faaspot import _executions as executions
from faaspot._calls import Conversation
from faaspot._session import AsyncSession, Session
from faaspot.errors import RuntimeUnavailable, WaitTimeout
from faaspot.types import Runtime, RuntimeStatus

TIMEOUT = 600.0
"""Seconds that a wait goes on: an image may have to be fetched."""
ON_THE_WAY = ("deploying", "undeploying")


def _path(name: str) -> str:
    return f"runtimes/{_calls.segment(name)}"


def _list() -> Conversation[list[Runtime]]:
    return [Runtime(each) for each in (yield from _calls.ask(_calls.get("runtimes/")))]


def _get(name: str) -> Conversation[Runtime]:
    return Runtime((yield from _calls.ask(_calls.get(_path(name)))))


def _create(
    name: str, kind: str, config: Mapping[str, str] | None, wraps: str | None, lazy: bool, external: bool
) -> Conversation[Runtime]:
    body: dict[str, Any] = {"name": name, "type": kind, "config": dict(config or {}), "lazy": lazy}
    body |= {"external": external, "wraps": wraps}
    return Runtime((yield from _calls.ask(_calls.send("PUT", "runtimes/", body))))


def _delete(name: str) -> Conversation[Any]:
    return (yield from _calls.ask(_calls.send("DELETE", _path(name))))


def _move(name: str, verb: str, end: RuntimeStatus, wait: bool, timeout: float) -> Conversation[Runtime]:
    """Ask for it, and with `wait` look until it is as asked. Raises RuntimeUnavailable, WaitTimeout."""
    answer = yield from _calls.ask(_calls.send("POST", f"{_path(name)}/{verb}"))
    if not wait:
        return Runtime(answer)
    limit = _calls.seconds(timeout)
    found = yield from executions.poll(lambda: _get(name), lambda each: each.status not in ON_THE_WAY, limit)
    if found is None:
        hint = f"`fas runtimes get {name}` shows how far it is."
        raise WaitTimeout(f"The runtime {name} is not {end} within {timeout:g} s; it goes on", hint=hint)
    if found.status != end:
        text = f"The runtime {name} is {found.status}: {found.error or 'something else was asked of it meanwhile'}"
        raise RuntimeUnavailable(text, error_code="runtime_unavailable")
    return found


class Runtimes:
    """``f.runtimes``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self) -> list[Runtime]:
        """All runtimes, the built-in ones first."""
        return self._session.hold(_list())

    def get(self, name: str) -> Runtime:
        """One runtime by its name."""
        return self._session.hold(_get(name))

    def create(
        self,
        name: str,
        type: str,  # noqa: A002 - the wire's word
        config: Mapping[str, str] | None = None,
        *,
        wraps: str | None = None,
        lazy: bool = True,
        external: bool = False,
    ) -> Runtime:
        """Define a runtime. A lazy one comes up at its first use, another with `deploy`."""
        return self._session.hold(_create(name, type, config, wraps, lazy, external))

    def deploy(self, name: str, wait: bool = False, timeout: float = TIMEOUT) -> Runtime:
        """Bring it up on every spot that can; with `wait` return when it is, or raise `RuntimeUnavailable`."""
        return self._session.hold(_move(name, "deploy", "deployed", wait, timeout))

    def undeploy(self, name: str, wait: bool = False, timeout: float = TIMEOUT) -> Runtime:
        """Take it out of service; with `wait` return when it is down everywhere."""
        return self._session.hold(_move(name, "undeploy", "undeployed", wait, timeout))

    def delete(self, name: str) -> Any:
        """Take it down and forget it. `Busy` while a deployment or another runtime uses it."""
        return self._session.hold(_delete(name))


class AsyncRuntimes:
    """As `Runtimes`, on asyncio."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def list(self) -> list[Runtime]:
        """All runtimes, the built-in ones first."""
        return await self._session.hold(_list())

    async def get(self, name: str) -> Runtime:
        """One runtime by its name."""
        return await self._session.hold(_get(name))

    async def create(
        self,
        name: str,
        type: str,  # noqa: A002 - the wire's word
        config: Mapping[str, str] | None = None,
        *,
        wraps: str | None = None,
        lazy: bool = True,
        external: bool = False,
    ) -> Runtime:
        """Define a runtime. A lazy one comes up at its first use, another with `deploy`."""
        return await self._session.hold(_create(name, type, config, wraps, lazy, external))

    async def deploy(self, name: str, wait: bool = False, timeout: float = TIMEOUT) -> Runtime:
        """Bring it up on every spot that can; with `wait` return when it is, or raise `RuntimeUnavailable`."""
        return await self._session.hold(_move(name, "deploy", "deployed", wait, timeout))

    async def undeploy(self, name: str, wait: bool = False, timeout: float = TIMEOUT) -> Runtime:
        """Take it out of service; with `wait` return when it is down everywhere."""
        return await self._session.hold(_move(name, "undeploy", "undeployed", wait, timeout))

    async def delete(self, name: str) -> Any:
        """Take it down and forget it. `Busy` while a deployment or another runtime uses it."""
        return await self._session.hold(_delete(name))
