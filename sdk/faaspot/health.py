"""How the platform is."""

from __future__ import annotations

from faaspot import _calls
from faaspot._calls import Conversation
from faaspot._session import AsyncSession, Session
from faaspot.types import Examination


def _examine() -> Conversation[Examination]:
    return Examination((yield from _calls.ask(_calls.get("doctor"))))


class Health:
    """``f.health``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def examine(self) -> Examination:
        """Every part of the running platform, looked at. For tokens of role admin or monitor."""
        return self._session.hold(_examine())


class AsyncHealth:
    """As `Health`, on asyncio."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def examine(self) -> Examination:
        """Every part of the running platform, looked at. For tokens of role admin or monitor."""
        return await self._session.hold(_examine())
