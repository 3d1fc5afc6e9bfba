"""What a launcher answers, in a container whatever the image's interpreter says, and what a failed start frees."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import resource
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox import launchers
from faaspot_runner.sandbox.holdings import Holdings
from tests.unit.runner.fake_launcher import Behave, FakeLauncher, Group, Housing, opened, says, writes
from tests.unit.runner.sandboxes import eventually

NO_SANDBOX = "the launcher process sent what is no process of a sandbox"


@contextlib.contextmanager
def launcher(behave: Behave) -> Iterator[FakeLauncher]:
    made = FakeLauncher(behave)
    try:
        yield made
    finally:
        made.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def room_for(more: int | None) -> Iterator[None]:
    """So many descriptors can be opened and no more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    free = (number for number in range(before[0]) if number not in taken)
    if more is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, more, None)), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def refused(fake: FakeLauncher, room: int | None = None) -> str:
    """Why nothing comes of a start with it; whatever the start held is free then, and its descriptors are closed."""

    async def story() -> str:
        housing, before, was_closed = Housing(), descriptors(), fake.launcher.closed
        with room_for(room), pytest.raises(SandboxError) as caught:
            await opened(fake.place(), Holdings(housing=housing))
        assert housing.removed == 1
        left = before if fake.launcher.closed == was_closed else before - 1
        assert eventually(lambda: descriptors() <= left), "a descriptor is left open"
        return str(caught.value)

    return asyncio.run(story())


# ---------------------------------------------------------------- no answer


def test_a_launcher_whose_answer_is_late_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its late answer would be taken for the next one's, and so on for good."""
    monkeypatch.setattr(launchers, "_LAUNCH_SECONDS", 0.1)
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


# ---------------------------------------------------------------- a hostile answer


BROKEN = {
    "no JSON": b"launched",
    "no object": b"[]",
    "no op": b"{}",
    "no word": b'{"op": "ready"}',
    "no errno": b'{"op": "failed", "message": "no"}',
    "an errno that is none": b'{"op": "failed", "errno": "1", "message": "no"}',
    "an errno that is too large": b'{"op": "failed", "errno": 1e999, "message": "no"}',
    "too long": b'{"op": "launched", "pad": "%s"}' % (b"x" * 65536),
    "too deep": b'{"op": ' + b"[" * 30000 + b"]" * 30000 + b"}",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_launcher_that_breaks_the_wire_is_ended(data: bytes) -> None:
    with launcher(writes(data)) as fake:
        assert refused(fake).startswith(
            ("the launcher process gave no answer: a message ", "the launcher process does")
        )
        assert fake.launcher.closed


@pytest.mark.parametrize("whose", [os.getpid, os.getppid], ids=["the spot's own", "its parent's"])
def test_a_pidfd_of_the_spot_is_no_sandbox(whose: Callable[[], int]) -> None:
    """It would be sent SIGKILL when the sandbox ends."""
    pidfd = os.pidfd_open(whose())
    try:
        with launcher(says({"op": "launched", "pid": 2}, pidfd)) as fake:
            assert refused(fake) == NO_SANDBOX
    finally:
        os.close(pidfd)


def test_a_pidfd_of_another_process_of_the_spots_namespace_is_no_sandbox() -> None:
    other = subprocess.Popen(["sleep", "600"])
    pidfd = os.pidfd_open(other.pid)
    try:
        with launcher(says({"op": "launched", "pid": 2}, pidfd)) as fake:
            assert refused(fake) == NO_SANDBOX
        assert other.poll() is None
    finally:
        os.close(pidfd)
        other.kill()
        other.wait()


def test_what_is_no_pidfd_is_no_sandbox() -> None:
    with (
        tempfile.TemporaryFile() as file,
        socket.socket() as sock,
        launcher(says({"op": "launched", "pid": 2})) as none,
        launcher(says({"op": "launched", "pid": 2}, file.fileno())) as plain,
        launcher(says({"op": "launched", "pid": 2}, sock.fileno(), file.fileno())) as two,
    ):
        assert {refused(fake) for fake in (none, plain, two)} == {NO_SANDBOX}


def test_the_words_of_a_launcher_are_bounded_text() -> None:
    words = json.dumps({"op": "failed", "errno": 5, "message": "\0\ud800" + "x" * 50_000})
    with launcher(writes(words.encode())) as fake:
        said = refused(fake)
        assert said.encode().startswith(b"the sandbox could not be set up: user namespace: \xef\xbf\xbd\\ud800xxx")
        assert len(said) < 1100
        assert not fake.launcher.closed


# ---------------------------------------------------------------- what a failed start frees


def test_whichever_descriptor_cannot_be_had_nothing_is_left() -> None:
    """EMFILE at each step of a start, one after the other."""
    for room in range(16):
        with launcher(says({"op": "failed", "errno": 0, "message": "so far so good"})) as fake:
            with contextlib.suppress(SandboxError):
                asyncio.run(opened(fake.place(), Holdings()))  # what is made once is made
            refused(fake, room)


def test_what_a_sandbox_held_that_cannot_get_into_its_group_is_freed_once() -> None:
    """There is no step between the launch and the group: it is launched into it."""

    async def story() -> None:
        group, housing = Group(), Housing()
        with (
            launcher(says({"op": "failed", "errno": 0, "message": "it was asked"})) as fake,
            pytest.raises(SandboxError, match="No such file"),
        ):
            await opened(fake.place(), Holdings(housing=housing, group=group))
        assert (housing.removed, group.removed) == (1, 1)

    asyncio.run(story())


def test_a_launched_sandbox_that_nobody_waits_for_is_killed_and_what_it_held_is_freed_once() -> None:
    outer = subprocess.Popen(["unshare", "--user", "--pid", "--fork", "--kill-child", "sleep", "600"])
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    assert eventually(lambda: children.read_text() != "")
    pidfd = os.pidfd_open(int(children.read_text()))

    async def story() -> None:
        housing, loop = Housing(), asyncio.get_running_loop()

        def answer(sock: socket.socket) -> None:
            loop.call_soon_threadsafe(starting.cancel)
            says({"op": "launched", "pid": 2}, pidfd)(sock)

        with launcher(answer) as fake:
            starting = asyncio.ensure_future(opened(fake.place(), Holdings(housing=housing)))
            with pytest.raises(asyncio.CancelledError):
                await starting
        assert housing.removed == 1

    try:
        asyncio.run(story())
        assert outer.wait(5) != 0
    finally:
        os.close(pidfd)
        outer.kill()
        outer.wait()
