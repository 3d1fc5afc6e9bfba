"""`Faaspot` and `AsyncFaaspot`: say where the platform is, and hang the resources on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faaspot import config
from faaspot._session import AsyncSession, Session
from faaspot.deployments import AsyncDeployments, Deployments
from faaspot.executions import AsyncExecutions, Executions
from faaspot.health import AsyncHealth, Health
from faaspot.runtimes import AsyncRuntimes, Runtimes
from faaspot.spots import AsyncSpots, Spots
from faaspot.tokens import AsyncTokens, Tokens

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from faaspot._transport import AsyncHttpTransport, HttpTransport

TIMEOUT = 60.0
"""Seconds that an answer may take, where the call itself does not wait for a function."""


class Faaspot:
    """A client of one platform. Safe to share between threads.

    ::

        with Faaspot() as faaspot:
            faaspot.deployments.create("hello", file="hello.py", wait=True)
            print(faaspot.deployments.run("hello", {"name": "you"}, wait=True))

    `profile` names a profile of the profile file; `host` (``https://faas.example.org``, ``10.0.0.7:8000``) and `token`
    say the same without one; see `faaspot.config` for what wins. `timeout`: seconds that an answer may take.
    Nothing is read, and no connection made, before the first call.
    """

    def __init__(
        self, profile: str | None = None, host: str | None = None, token: str | None = None, timeout: float = TIMEOUT
    ) -> None:
        self.profiles = config.Profiles()

        def connect() -> HttpTransport:
            from faaspot._transport import HttpTransport  # the HTTP library is half of the start-up time

            return HttpTransport(config.resolve(profile, host, token, profiles=self.profiles), timeout)

        self._session = Session(connect)
        self.deployments = self.functions = Deployments(self._session)
        self.executions = Executions(self._session)
        self.spots = self.nodes = Spots(self._session)
        self.runtimes = Runtimes(self._session)
        self.tokens = Tokens(self._session)
        self.health = Health(self._session)

    def close(self) -> None:
        """Give the connections back."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncFaaspot:
    """As `Faaspot`, on asyncio: the same resources and methods, awaited.

    ::

        async with AsyncFaaspot() as faaspot:
            print(await faaspot.deployments.run("hello", {"name": "you"}, wait=True))
    """

    def __init__(
        self, profile: str | None = None, host: str | None = None, token: str | None = None, timeout: float = TIMEOUT
    ) -> None:
        self.profiles = config.Profiles()

        def connect() -> AsyncHttpTransport:
            from faaspot._transport import AsyncHttpTransport

            return AsyncHttpTransport(config.resolve(profile, host, token, profiles=self.profiles), timeout)

        self._session = AsyncSession(connect)
        self.deployments = self.functions = AsyncDeployments(self._session)
        self.executions = AsyncExecutions(self._session)
        self.spots = self.nodes = AsyncSpots(self._session)
        self.runtimes = AsyncRuntimes(self._session)
        self.tokens = AsyncTokens(self._session)
        self.health = AsyncHealth(self._session)

    async def close(self) -> None:
        """Give the connections back."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
