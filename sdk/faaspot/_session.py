"""The seam to the network, and the two drivers that hold conversations over it: one that blocks, one on asyncio."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol, TypeVar, cast

from faaspot._calls import Conversation, Pause, Request, Response, Step
from faaspot.errors import FaaspotError

T = TypeVar("T")


class Transport(Protocol):
    """One request out, one answer back. Safe to use from several threads."""

    def send(self, request: Request) -> Response:
        """The whole answer, whatever its status. Raises `ConnectionFailed`."""

    def stream(self, request: Request) -> Iterator[str]:
        """The text of a successful answer as it comes. Raises as `send`, and the error that another answer means."""

    def close(self) -> None:
        """Give the connections back. A closed transport sends no more."""


class AsyncTransport(Protocol):
    """As `Transport`, on asyncio."""

    async def send(self, request: Request) -> Response:
        """The whole answer, whatever its status. Raises `ConnectionFailed`."""

    def stream(self, request: Request) -> AsyncIterator[str]:
        """The text of a successful answer as it comes."""

    async def close(self) -> None:
        """Give the connections back."""


class Session:
    """Holds conversations over a transport that is opened at the first of them."""

    def __init__(self, open_transport: Callable[[], Transport], sleep: Callable[[float], None] = time.sleep) -> None:
        self._open = open_transport
        self._sleep = sleep
        self._transport: Transport | None = None
        self._opening = threading.Lock()

    @property
    def transport(self) -> Transport:
        """The one transport, opened by the first thread that asks."""
        with self._opening:
            if self._transport is None:
                self._transport = self._open()
            return self._transport

    def hold(self, conversation: Conversation[T]) -> T:
        """The value of a conversation, after all its steps."""
        try:
            step = next(conversation)
            while True:
                try:
                    answer = self._take(step)
                except FaaspotError as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(answer)
        except StopIteration as stop:
            return cast(T, stop.value)

    def _take(self, step: Step) -> Response | None:
        if isinstance(step, Pause):
            self._sleep(step.seconds)
            return None
        return self.transport.send(step)

    def stream(self, request: Request) -> Iterator[str]:
        """The text of an answer as it comes."""
        return self.transport.stream(request)

    def close(self) -> None:
        """Close the transport, if it was ever opened."""
        if self._transport is not None:
            self._transport.close()


class AsyncSession:
    """As `Session`, on asyncio."""

    def __init__(self, open_transport: Callable[[], AsyncTransport]) -> None:
        self._open = open_transport
        self._transport: AsyncTransport | None = None

    @property
    def transport(self) -> AsyncTransport:
        """The one transport, opened at the first request."""
        if self._transport is None:
            self._transport = self._open()
        return self._transport

    async def hold(self, conversation: Conversation[T]) -> T:
        """The value of a conversation, after all its steps."""
        try:
            step = next(conversation)
            while True:
                try:
                    answer = await self._take(step)
                except FaaspotError as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(answer)
        except StopIteration as stop:
            return cast(T, stop.value)

    async def _take(self, step: Step) -> Response | None:
        if isinstance(step, Pause):
            import asyncio  # a third of the start-up time of a command that never needs it

            await asyncio.sleep(step.seconds)
            return None
        return await self.transport.send(step)

    def stream(self, request: Request) -> AsyncIterator[str]:
        """The text of an answer as it comes."""
        return self.transport.stream(request)

    async def close(self) -> None:
        """Close the transport, if it was ever opened."""
        if self._transport is not None:
            await self._transport.close()
