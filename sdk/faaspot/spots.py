"""Worker hosts: list, add, remove, replace."""

from __future__ import annotations

from typing import Any

from faaspot import _calls
from faaspot import _executions as executions
from faaspot._calls import Conversation, Request
from faaspot._session import AsyncSession, Session
from faaspot.types import Execution, Spot


def _path(ip: str | None) -> str:
    return f"spots/{_calls.segment(ip)}" if ip else "spots/"


def _list() -> Conversation[list[Spot]]:
    return [Spot(each) for each in (yield from _calls.ask(_calls.get("spots/")))]


def _get(ip: str) -> Conversation[Spot]:
    return Spot((yield from _calls.ask(_calls.get(_path(ip)))))


def _task(request: Request, wait: bool) -> Conversation[str | Execution]:
    uuid = _calls.uuid_of((yield from _calls.ask(request)))
    return (yield from executions.succeeded(uuid, wait))


def _add(options: dict[str, Any]) -> Request:
    return _calls.send("PUT", "spots/", {name: value for name, value in options.items() if value} or None)


def _remove(ip: str | None) -> Request:
    return _calls.send("DELETE", _path(ip))


def _update(min_workers: int | None, max_workers: int | None, ip: str | None) -> Conversation[Any]:
    given = {"min_workers": min_workers, "max_workers": max_workers}
    body = {name: value for name, value in given.items() if value is not None}
    return (yield from _calls.ask(_calls.send("PATCH", _path(ip), body)))


def _drain(ip: str, draining: bool) -> Conversation[Spot]:
    return Spot((yield from _calls.ask(_calls.send("PATCH", _path(ip), {"draining": draining}))))


def _refresh(ip: str) -> Request:
    return _calls.send("PATCH", "spots/", {"refresh_ip": ip})


def _replace(ip: str) -> Request:
    # A GET that acts: it must not be repeated like one that only reads.
    return _calls.send("GET", f"spots/replace/{_calls.segment(ip)}")


class Spots:
    """``f.spots``, also ``f.nodes``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self) -> list[Spot]:
        """All spots."""
        return self._session.hold(_list())

    def get(self, ip: str) -> Spot:
        """One spot by its address."""
        return self._session.hold(_get(ip))

    def add(self, wait: bool = False, *, availability_zone: str | None = None) -> str | Execution:
        """Add a spot. The execution id, or with `wait` its record, whose output is the spot's address."""
        return self._session.hold(_task(_add({"availability_zone": availability_zone}), wait))

    def remove(self, ip: str | None = None, wait: bool = False) -> str | Execution:
        """Drain and remove a spot, without `ip` any one. The execution id, or with `wait` its record."""
        return self._session.hold(_task(_remove(ip), wait))

    def update(self, min: int | None = None, max: int | None = None, *, ip: str | None = None) -> Any:  # noqa: A002 - as old clients
        """Set between how many worker processes each spot follows its queues; with `ip` that spot alone."""
        return self._session.hold(_update(min, max, ip))

    def drain(self, ip: str, draining: bool = True) -> Spot:
        """Have a spot take nothing new, or take work again. What runs there goes on."""
        return self._session.hold(_drain(ip, draining))

    def refresh_ip(self, ip: str = "all", wait: bool = False) -> str | Execution:
        """Give a spot, or all, a new address. The execution id, or with `wait` its record."""
        return self._session.hold(_task(_refresh(ip), wait))

    def replace(self, ip: str, wait: bool = False) -> str | Execution:
        """Replace a spot by a new one. The execution id, or with `wait` its record, whose output is its address."""
        return self._session.hold(_task(_replace(ip), wait))


class AsyncSpots:
    """As `Spots`, on asyncio."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def list(self) -> list[Spot]:
        """All spots."""
        return await self._session.hold(_list())

    async def get(self, ip: str) -> Spot:
        """One spot by its address."""
        return await self._session.hold(_get(ip))

    async def add(self, wait: bool = False, *, availability_zone: str | None = None) -> str | Execution:
        """Add a spot. The execution id, or with `wait` its record, whose output is the spot's address."""
        return await self._session.hold(_task(_add({"availability_zone": availability_zone}), wait))

    async def remove(self, ip: str | None = None, wait: bool = False) -> str | Execution:
        """Drain and remove a spot, without `ip` any one. The execution id, or with `wait` its record."""
        return await self._session.hold(_task(_remove(ip), wait))

    async def update(self, min: int | None = None, max: int | None = None, *, ip: str | None = None) -> Any:  # noqa: A002 - as in `Spots`
        """Set between how many worker processes each spot follows its queues; with `ip` that spot alone."""
        return await self._session.hold(_update(min, max, ip))

    async def drain(self, ip: str, draining: bool = True) -> Spot:
        """Have a spot take nothing new, or take work again. What runs there goes on."""
        return await self._session.hold(_drain(ip, draining))

    async def refresh_ip(self, ip: str = "all", wait: bool = False) -> str | Execution:
        """Give a spot, or all, a new address. The execution id, or with `wait` its record."""
        return await self._session.hold(_task(_refresh(ip), wait))

    async def replace(self, ip: str, wait: bool = False) -> str | Execution:
        """Replace a spot by a new one. The execution id, or with `wait` its record, whose output is its address."""
        return await self._session.hold(_task(_replace(ip), wait))
