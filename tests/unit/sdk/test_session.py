"""The drivers hold a conversation: requests, pauses, and errors thrown back into it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from faaspot import _calls
from faaspot._calls import Request, Response
from faaspot._session import AsyncSession, Session
from faaspot.errors import ConnectionFailed
from tests.unit.sdk.played import answer


class Scripted:
    """A transport that gives these answers, or raises them."""

    def __init__(self, *answers: Response | Exception) -> None:
        self.answers = list(answers)
        self.closed = False

    def send(self, request: Request) -> Response:
        given = self.answers.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    def stream(self, request: Request) -> Iterator[str]:
        return iter([request.path])

    def close(self) -> None:
        self.closed = True


class AsyncScripted(Scripted):
    async def send(self, request: Request) -> Response:  # type: ignore[override]
        return super().send(request)

    async def stream(self, request: Request) -> AsyncIterator[str]:  # type: ignore[override]
        yield request.path

    async def close(self) -> None:  # type: ignore[override]
        super().close()


def test_a_session_opens_at_the_first_call_sleeps_the_pauses_and_closes() -> None:
    transport = Scripted(ConnectionFailed("refused"), answer(body={"a": 1}))
    slept: list[float] = []
    opened: list[Scripted] = []

    def connect() -> Scripted:
        opened.append(transport)
        return transport

    session = Session(connect, slept.append)
    session.close()
    assert opened == []

    assert session.hold(_calls.ask(_calls.get("x"))) == {"a": 1}
    assert (len(opened), len(slept)) == (1, 1)
    assert list(session.stream(_calls.get("y"))) == ["y"]
    session.close()
    assert transport.closed


def test_threads_share_one_transport() -> None:
    opened: list[Scripted] = []
    ready = threading.Barrier(4)

    def connect() -> Scripted:
        opened.append(Scripted(*[answer(body=1)] * 4))
        return opened[-1]

    session = Session(connect)

    def ask() -> None:
        ready.wait(5)
        assert session.hold(_calls.ask(_calls.get("x"))) == 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1
    assert opened[0].answers == []


def test_what_the_conversation_does_not_catch_comes_out() -> None:
    session = Session(lambda: Scripted(ConnectionFailed("refused")), lambda seconds: None)

    with pytest.raises(ConnectionFailed):
        session.hold(_calls.ask(_calls.send("POST", "x")))


def test_an_async_session_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = AsyncScripted(ConnectionFailed("refused"), answer(body={"a": 1}))
    monkeypatch.setattr(_calls, "FIRST_BACKOFF", 0.0)

    async def talk() -> tuple[Any, list[str]]:
        session = AsyncSession(lambda: transport)  # type: ignore[arg-type, return-value]
        await session.close()
        value = await session.hold(_calls.ask(_calls.get("x")))
        texts = [text async for text in session.stream(_calls.get("y"))]
        with pytest.raises(IndexError):
            await session.hold(_calls.ask(_calls.send("POST", "x")))
        await session.close()
        return value, texts

    assert asyncio.run(talk()) == ({"a": 1}, ["y"])
    assert transport.closed
