"""What a launcher answers, in a container whatever the image's interpreter says, and what a failed start frees."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox import enclosure
from faaspot_runner.sandbox.enclosure import Holdings
from tests.unit.runner.fake_launcher import Behave, FakeLauncher, Housing, opened, says
from tests.unit.runner.sandboxes import eventually


@contextlib.contextmanager
def launcher(behave: Behave) -> Iterator[FakeLauncher]:
    made = FakeLauncher(behave)
    try:
        yield made
    finally:
        made.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def refused(fake: FakeLauncher) -> str:
    """Why nothing comes of a start with it; whatever the start held is free then, and its descriptors are closed."""

    async def story() -> str:
        housing, before, was_closed = Housing(), descriptors(), fake.launcher.closed
        with pytest.raises(SandboxError) as caught:
            await opened(fake.place(), Holdings(housing=housing))
        assert housing.removed == 1
        left = before if fake.launcher.closed == was_closed else before - 1
        assert eventually(lambda: descriptors() <= left), "a descriptor is left open"
        return str(caught.value)

    return asyncio.run(story())


# ---------------------------------------------------------------- no answer


def test_a_launcher_whose_answer_is_late_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its late answer would be taken for the next one's, and so on for good."""
    monkeypatch.setattr(enclosure, "_LAUNCH_SECONDS", 0.1)
    with launcher(lambda _: None) as fake:
        assert not fake.launcher.closed
        assert refused(fake) == "the launcher process gave no answer: timed out"
        assert fake.launcher.closed
        assert eventually(lambda: fake.ended)
        assert refused(fake) == "the launcher is gone"


def test_a_launcher_that_died_is_closed() -> None:
    with launcher(lambda sock: sock.shutdown(socket.SHUT_RDWR)) as fake:
        assert refused(fake) == "the launcher process died; the spot's log says why"
        assert fake.launcher.closed


def test_the_answer_to_a_start_that_was_cancelled_is_nobody_elses() -> None:
    async def story() -> None:
        asked, answer = asyncio.Event(), asyncio.Event()
        loop, said = asyncio.get_running_loop(), iter(("first", "second"))

        def slowly(sock: socket.socket) -> None:
            loop.call_soon_threadsafe(asked.set)
            asyncio.run_coroutine_threadsafe(answer.wait(), loop).result()
            says({"op": "failed", "errno": 0, "message": next(said)})(sock)

        with launcher(slowly) as fake:
            first = asyncio.ensure_future(opened(fake.place(), Holdings(housing=Housing())))
            await asked.wait()
            second = asyncio.ensure_future(opened(fake.place(), Holdings(housing=Housing())))
            first.cancel()
            loop.call_later(0.05, answer.set)
            with pytest.raises(SandboxError, match="second"):
                await second
            assert first.cancelled()

    asyncio.run(story())
