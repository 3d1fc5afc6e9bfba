"""One run against a zygote that lies: what it says is judged, what it holds is freed, whatever it sends is bounded."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from faaspot_runner.agent import wire
from faaspot_runner.contract import Limits
from faaspot_runner.sandbox import run as module
from faaspot_runner.sandbox.channel import Channel
from faaspot_runner.sandbox.outcome import Outcome, request_frame
from faaspot_runner.sandbox.run import run_once
from tests.unit.runner.fake_zygote import Behave, Zygote, answers, says

pytestmark = pytest.mark.timeout(30)


@contextlib.contextmanager
def driven(behave: Behave, seconds: float = 10.0, **more: Any) -> Iterator[tuple[Outcome, Zygote]]:
    """The outcome of one run at a zygote that does as it is told."""
    zygote = Zygote(behave)
    with Channel(zygote.theirs) as channel:
        frame = request_frame("{}", "{}", {})
        outcome = run_once(channel, frame, id="e", limits=Limits(), deadline=time.monotonic() + seconds, **more)
        yield outcome, zygote
    zygote.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


LIES: list[dict[str, Any]] = [
    {"op": "exited", "status": 2**100}, {"op": "exited", "status": -1}, {"op": "exited", "status": "9"},
    {"op": "exited", "status": True}, {"op": "exited", "status": 9.0}, {"op": "exited"},
    {"op": "exited", "status": 0, "cpu_ms": "1"}, {"op": "exited", "status": 0, "cpu_ms": float("nan")},
    {"op": "exited", "status": 0, "max_memory_mb": -1}, {"op": "exited", "status": 0, "max_memory_mb": 10**400},
    {"op": "exited", "status": 0, "id": ["e"]}, {"op": "exited", "status": 0, "id": None},
    {"op": "refused", "errno": 1}, {"op": "refused", "errno": "1", "message": "m"},
    {"op": "refused", "errno": 10**30, "message": "m"}, {"op": "refused", "errno": 1, "message": {}},
    {"op": "forked"}, {"op": "ready"}, {"op": "forked", "id": 7},
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: repr(lie)[:60])
def test_a_word_that_is_none_breaks_the_protocol_and_leaves_nothing_open(lie: dict[str, Any]) -> None:
    before = descriptors()
    with driven(says(lie)) as (outcome, zygote):
        assert (outcome.status, outcome.reason) == ("Failure", "broken")
        assert outcome.error is not None
        assert outcome.error.message.startswith("the sandbox broke the protocol: ")
        assert zygote.runs[0].wait(5) == -9
    assert descriptors() == before


@pytest.mark.parametrize("data", [b"[]", b"{}", b"\xff", b'{"op":1}', b"[" * 60_000, b"x" * 70_000])
def test_so_does_what_is_no_message_at_all(data: bytes) -> None:
    def behave(zygote: Zygote, name: str, fds: list[int]) -> None:
        zygote.fork(name)
        zygote.ours.send(data)
        wire.close(fds[1:])
        zygote.kept.append(fds[0])

    with driven(behave) as (outcome, _):
        assert outcome.reason == "broken"


def test_a_second_process_for_one_run_is_not_taken() -> None:
    def behave(zygote: Zygote, name: str, fds: list[int]) -> None:
        zygote.fork(name)
        zygote.fork(name)
        wire.close(fds[1:])
        zygote.kept.append(fds[0])

    before = descriptors()
    with driven(behave) as (outcome, _):
        assert outcome.reason == "broken"
    assert descriptors() == before


def test_a_defect_of_our_own_leaves_no_run_alive_and_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(status: int) -> None:
        raise OverflowError(status)

    monkeypatch.setattr(module, "died", defect)
    before = descriptors()
    zygote = Zygote(says({"op": "exited", "status": 0}))
    with Channel(zygote.theirs) as channel, pytest.raises(OverflowError):
        run_once(channel, request_frame("{}", "{}", {}), id="e", limits=Limits(), deadline=time.monotonic() + 10)
    assert zygote.runs[0].wait(5) == -9
    zygote.close()
    assert descriptors() == before


def test_late_news_of_an_earlier_run_are_none_of_this_ones() -> None:
    def behave(zygote: Zygote, name: str, fds: list[int]) -> None:
        wire.send(zygote.ours, {"op": "exited", "id": "earlier", "status": 9})
        answers(zygote, name, fds)

    with driven(behave) as (outcome, _):
        assert (outcome.status, outcome.output) == ("Success", '"done"')


def test_a_result_without_a_process_to_kill_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def behave(zygote: Zygote, name: str, fds: list[int]) -> None:
        os.write(fds[0], wire.frame(b'{"ok":true,"output":1}'))
        wire.close(fds)

    monkeypatch.setattr(module, "DEATH_SECONDS", 0.2)
    with driven(behave) as (outcome, _):
        assert outcome.reason == "broken"


def test_a_result_of_a_sandbox_that_died_over_it_is_lost_and_no_fault_of_its_own() -> None:
    def behave(zygote: Zygote, name: str, fds: list[int]) -> None:
        os.write(fds[0], wire.frame(b'{"ok":true,"output":1}'))
        zygote.ours.shutdown(socket.SHUT_RDWR)
        wire.close(fds)

    with driven(behave) as (outcome, _):
        assert outcome.reason == "lost"


def test_a_run_that_was_never_told_of_is_not_over_when_its_time_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its zygote may be stopped, and go on later: the sandbox has to go, so the end is `lost`."""
    monkeypatch.setattr(module, "DEATH_SECONDS", 0.2)
    with driven(lambda zygote, _, fds: zygote.kept.extend(fds), seconds=0.1) as (outcome, _):
        assert (outcome.reason, outcome.start_ms) == ("lost", None)


def flood(head: bytes) -> Behave:
    """A run that sends this and then zeros, until nobody takes them any more."""

    def behave(zygote: Zygote, name: str, fds: list[int]) -> None:
        zygote.fork(name)
        sent = os.write(fds[0], head)
        with contextlib.suppress(OSError):
            while sent < 64 * 2**20:
                sent += os.write(fds[0], bytes(2**16))
        wire.close(fds)
        zygote.sent = sent

    return behave


@pytest.mark.parametrize(
    ("head", "reason"), [(bytes(4), "unserialisable"), (b"\xff" * 4, "limit"), (b"\0\x80\0\0", "unserialisable")]
)
def test_a_flood_on_the_result_channel_is_taken_up_to_one_frame(head: bytes, reason: str) -> None:
    with driven(flood(head)) as (outcome, zygote):
        assert outcome.reason == reason
    assert zygote.sent < 10 * 2**20


def test_the_clock_is_looked_at_while_a_result_comes() -> None:
    """Not only when nothing comes for a while: pieces that never cease do not keep the deadline away."""

    def behave(zygote: Zygote, name: str, fds: list[int]) -> None:
        zygote.fork(name)
        os.write(fds[0], b"\0\x80\0\0")
        with contextlib.suppress(OSError):
            while True:
                os.write(fds[0], b"0")
                time.sleep(0.001)
        wire.close(fds)

    with driven(behave, seconds=0.5) as (outcome, _):
        assert outcome.reason == "timeout"
        assert outcome.run_ms is not None
        assert outcome.run_ms < 2000


def test_the_memory_is_looked_at_by_the_clock_whatever_the_run_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def looked(_: object) -> bool:
        looks.append(time.monotonic())
        return len(looks) == 5

    def behave(zygote: Zygote, name: str, fds: list[int]) -> None:
        zygote.fork(name)
        with contextlib.suppress(OSError):
            while True:
                os.write(fds[1], b"x")
                time.sleep(0.001)
        wire.close(fds)

    monkeypatch.setattr(module.Run, "_looked", looked)
    with driven(behave, seconds=10.0) as (outcome, _):
        assert outcome.reason == "oom"
    pauses = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert min(pauses) >= module.POLL_MEMORY_SECONDS
