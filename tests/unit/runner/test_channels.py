"""A worker's idle channels: which are kept, which are closed, and that nothing is kept of sandboxes that are gone."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import cast

import pytest

from faaspot_runner.contract import SandboxSpec
from faaspot_runner.runtimes.channels import Channels, Warm
from faaspot_runner.runtimes.spot_socket import Offered, SpotClient

SPEC = SandboxSpec(version_id="v1", deployment="d", version=1, runtime="process", python="3.11", code="0" * 64)


class FakeSpot:
    """Offers a new sandbox each time; `theirs` are the zygotes' ends."""

    def __init__(self) -> None:
        self.theirs: list[socket.socket] = []

    def acquire(self, spec: SandboxSpec, seconds: float, avoid: str | None = None) -> Future[Offered]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.theirs.append(theirs)
        future: Future[Offered] = Future()
        sandbox = f"s{len(self.theirs)}"
        future.set_result(
            Offered(channel=ours, sandbox=sandbox, counted=False, cold=True, start_ms=1.0, import_ms=1.0, log="")
        )
        return future


class Room:
    def __init__(self) -> None:
        self.spot = FakeSpot()
        self.channels = Channels(cast(SpotClient, self.spot))

    def acquire(self) -> Warm:
        def on_stop(_: Callable[[], None] | None) -> None:
            """Nobody stops it."""

        return self.channels.acquire(SPEC, 1.0, on_stop=on_stop)


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    yield room
    room.channels.close()
    for each in room.spot.theirs:
        each.close()


def closed(warm: Warm) -> bool:
    return warm.channel.fileno() < 0


def test_a_channel_that_comes_back_is_used_again(room: Room) -> None:
    first = room.acquire()
    room.channels.release(first)
    assert room.acquire().channel is first.channel
    room.channels.discard(first)


def test_the_idle_channels_of_a_sandbox_that_is_gone_are_closed_at_once_those_in_use_later(room: Room) -> None:
    busy, idle = room.acquire(), room.acquire()
    room.channels.release(idle)
    for sandbox in ("s1", "s2"):
        room.channels.forget(sandbox)
    assert closed(idle)
    assert not closed(busy)
    room.channels.release(busy)
    assert closed(busy)


def test_a_channel_at_its_end_is_not_kept(room: Room) -> None:
    warm = room.acquire()
    room.spot.theirs[0].close()
    room.channels.release(warm)
    assert closed(warm)


def test_nothing_is_kept_of_sandboxes_that_came_and_went(room: Room) -> None:
    for number in range(100):
        warm = room.acquire()
        room.channels.forget(warm.sandbox)
        (room.channels.release if number % 2 else room.channels.discard)(warm)
        room.channels.forget(warm.sandbox)
    assert room.channels.used() == {f"s{number}" for number in range(1, 101)}
    assert room.channels.used() == frozenset()
    assert not room.channels._gone
    assert not room.channels._busy
    assert not room.channels._idle
