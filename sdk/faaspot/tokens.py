"""Who may do what: named tokens with a role. For administrators, but for one's own callback secret."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faaspot import _calls
from faaspot._calls import Conversation
from faaspot._session import AsyncSession, Session
from faaspot.types import Role, Token


def _list() -> Conversation[list[Token]]:
    return [Token(each) for each in (yield from _calls.ask(_calls.get("tokens/")))]


def _create(name: str, role: Role, spots: Sequence[str]) -> Conversation[Token]:
    body: dict[str, Any] = {"name": name, "role": role}
    if spots:
        body["spots"] = list(spots)
    return Token((yield from _calls.ask(_calls.send("PUT", "tokens/", body))))


def _callback_secret() -> Conversation[str]:
    return str((yield from _calls.ask(_calls.get("tokens/callback-secret")))["secret"])


def _revoke(name: str) -> Conversation[Any]:
    return (yield from _calls.ask(_calls.send("DELETE", f"tokens/{_calls.segment(name)}")))


class Tokens:
    """``f.tokens``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self) -> list[Token]:
        """All tokens, without their texts."""
        return self._session.hold(_list())

    def create(self, name: str, role: Role = "deployer", spots: Sequence[str] = ()) -> Token:
        """Make a token; `token` of the answer is its text, shown this once. `spots` limits a deployer to these."""
        return self._session.hold(_create(name, role, spots))

    def callback_secret(self) -> str:
        """What your receivers of callbacks check signatures with: of your own token, whatever its role."""
        return self._session.hold(_callback_secret())

    def revoke(self, name: str) -> Any:
        """Make a token invalid at once."""
        return self._session.hold(_revoke(name))


class AsyncTokens:
    """As `Tokens`, on asyncio."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def list(self) -> list[Token]:
        """All tokens, without their texts."""
        return await self._session.hold(_list())

    async def create(self, name: str, role: Role = "deployer", spots: Sequence[str] = ()) -> Token:
        """Make a token; `token` of the answer is its text, shown this once. `spots` limits a deployer to these."""
        return await self._session.hold(_create(name, role, spots))

    async def callback_secret(self) -> str:
        """What your receivers of callbacks check signatures with: of your own token, whatever its role."""
        return await self._session.hold(_callback_secret())

    async def revoke(self, name: str) -> Any:
        """Make a token invalid at once."""
        return await self._session.hold(_revoke(name))
