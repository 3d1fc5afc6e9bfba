"""The socket between worker and spot: whole messages, cut texts, descriptors that find their asker or are closed."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faaspot_runner.contract import SandboxSpec
from faaspot_runner.errors import SandboxError
from faaspot_runner.runtimes.spot_socket import (
    MAX_MESSAGE,
    Heard,
    SpotClient,
    SpotGoneError,
    encode,
    receive,
    welcome,
)
from faaspot_runner.sandbox.spec import Interpreter

pytestmark = pytest.mark.timeout(20)

SPEC = SandboxSpec(version_id="v1", deployment="d", version=1, runtime="process", python="3.11", code="0" * 64)
PYTHON = Interpreter(executable=Path("/usr/bin/python3.11"), prefix=Path("/usr"), version="3.11", full_version="3.11.2")


class Ends:
    """Both ends: the client, and the spot's socket in the test's hand."""

    def __init__(self) -> None:
        self.theirs, self.spot = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.say(welcome("groups", [PYTHON]))
        self.heard: list[Any] = []
        self.over = threading.Event()
        self.client = SpotClient(self.theirs)
        self.client.listen(
            Heard(
                cancel=lambda name: self.heard.append(("cancel", name)),
                look=lambda: self.heard.append("look"),
                gone=lambda name: self.heard.append(("gone", name)),
                hurry=lambda: self.heard.append("hurry"),
                ended=self.over.set,
                pause=lambda paused: self.heard.append(("pause", paused)),
            )
        )

    def say(self, message: dict[str, Any], *fds: int) -> None:
        socket.send_fds(self.spot, [encode(message)], list(fds))

    def asked(self) -> dict[str, Any]:
        received = receive(self.spot)
        assert received is not None
        return received[0]

    def offer(self, call: int) -> socket.socket:
        """Answer with one end of a pair; the other one is returned."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            told = {"sandbox": "s", "cold": True, "counted": True, "start_ms": 1.0, "import_ms": 2.0, "log": "l"}
            self.say({"op": "acquired", "call": call, **told}, theirs.fileno())
        return ours


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.spot.close()
    assert ends.over.wait(5)
    ends.theirs.close()


def test_the_welcome_brings_cgroups_and_interpreters(ends: Ends) -> None:
    assert ends.client.cgroups == "groups"
    assert ends.client.interpreters == {"3.11": PYTHON}


def test_answers_find_their_askers_in_any_order(ends: Ends) -> None:
    futures = [ends.client.acquire(SPEC, 5.0) for _ in range(3)]
    calls = [ends.asked()["call"] for _ in futures]
    others = {call: ends.offer(call) for call in reversed(calls)}
    for call, future in zip(calls, futures, strict=True):
        offered = future.result(5)
        offered.channel.send(str(call).encode())
        assert others[call].recv(10) == str(call).encode()
        offered.channel.close()
        others[call].close()


def test_a_failure_carries_reason_error_and_log(ends: Ends) -> None:
    future = ends.client.acquire(SPEC, 5.0, avoid="old")
    asked = ends.asked()
    assert asked["avoid"] == "old"
    error = {"type": "KeyError", "message": "'x'", "traceback": "t"}
    ends.say({"op": "failed", "call": asked["call"], "reason": "error", "error": error, "log": "printed"})
    with pytest.raises(SandboxError) as caught:
        future.result(5)
    assert (caught.value.reason, caught.value.error.type, caught.value.log) == ("error", "KeyError", "printed")


def test_a_suspicion_is_answered_with_what_became_of_the_sandbox(ends: Ends) -> None:
    future = ends.client.suspect("s", stuck=False)
    asked = ends.asked()
    assert asked == {"op": "suspect", "call": asked["call"], "sandbox": "s", "stuck": False}
    told = {"type": "OutOfMemory", "message": "too much", "traceback": None}
    ends.say({"op": "failed", "call": asked["call"], "reason": "oom", "error": told, "log": ""})
    known = future.exception(5)
    assert isinstance(known, SandboxError)
    assert (known.reason, str(known)) == ("oom", "too much")


def test_a_channel_for_one_who_has_left_is_closed(ends: Ends) -> None:
    future = ends.client.acquire(SPEC, 5.0)
    future.cancel()
    with ends.offer(ends.asked()["call"]) as other:
        assert other.recv(1) == b""


def test_when_the_spot_is_gone_all_who_wait_hear_it_and_nobody_asks_any_more(ends: Ends) -> None:
    future = ends.client.acquire(SPEC, 5.0)
    ends.asked()
    ends.spot.close()
    with pytest.raises(SpotGoneError):
        future.result(5)
    with pytest.raises(SpotGoneError):
        ends.client.acquire(SPEC, 5.0)


def test_the_spots_words_are_heard_in_order(ends: Ends) -> None:
    ends.say({"op": "cancel", "execution_id": "e"})
    ends.say({"op": "gone", "sandbox": "s"})
    ends.say({"op": "look"})
    ends.say({"op": "hurry"})
    future = ends.client.acquire(SPEC, 5.0)
    ends.asked()
    ends.spot.close()
    with pytest.raises(SpotGoneError):
        future.result(5)
    assert ends.heard[:4] == [("cancel", "e"), ("gone", "s"), "look", "hurry"]


def test_long_texts_are_cut_with_a_mark_until_the_message_fits(ends: Ends) -> None:
    error = {"type": "E", "message": "m", "traceback": "\x01" * 65_536}
    data = encode({"op": "failed", "call": 1, "reason": "error", "error": error, "log": "\x00" * 65_536})
    assert len(data) <= MAX_MESSAGE
    told = json.loads(data)
    assert "dropped" in told["log"] + told["error"]["traceback"]
    ends.spot.send(data)


def test_a_lone_surrogate_does_not_break_a_message() -> None:
    assert json.loads(encode({"op": "failed", "log": "a\ud800b"}))["op"] == "failed"


def test_no_descriptor_is_left_after_a_used_offer(ends: Ends) -> None:
    before = len(os.listdir("/proc/self/fd"))
    future = ends.client.acquire(SPEC, 5.0)
    other = ends.offer(ends.asked()["call"])
    future.result(5).channel.close()
    other.close()
    assert len(os.listdir("/proc/self/fd")) == before
