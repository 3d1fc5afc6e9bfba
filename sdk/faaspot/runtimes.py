"""Where code runs on a spot. A platform that does not manage runtimes yet answers `Invalid`, and says so."""

from __future__ import annotations

from faaspot import _calls
from faaspot._calls import Conversation
from faaspot._session import AsyncSession, Session
from faaspot.types import Record


def _list() -> Conversation[list[Record]]:
    return [Record(each) for each in (yield from _calls.ask(_calls.get("runtimes/")))]


def _get(name: str) -> Conversation[Record]:
    return Record((yield from _calls.ask(_calls.get(f"runtimes/{_calls.segment(name)}"))))


class Runtimes:
    """``f.runtimes``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self) -> list[Record]:
        """All runtimes."""
        return self._session.hold(_list())

    def get(self, name: str) -> Record:
        """One runtime by its name."""
        return self._session.hold(_get(name))


class AsyncRuntimes:
    """As `Runtimes`, on asyncio."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def list(self) -> list[Record]:
        """All runtimes."""
        return await self._session.hold(_list())

    async def get(self, name: str) -> Record:
        """One runtime by its name."""
        return await self._session.hold(_get(name))
