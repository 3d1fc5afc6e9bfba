"""What a worker is answered that asks for a sandbox or builds, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any, cast

import pytest

from faaspot_runner.connectors.base import Log
from faaspot_runner.contract import Error
from faaspot_runner.errors import ImageError, SandboxError
from faaspot_runner.spot.crew import Crew, Member
from faaspot_runner.spot.line import Line
from faaspot_runner.spot.offer import fate, offer, prepare
from tests.unit.runner.test_pool import OTHER, SPEC, FakeSandbox, House, run, turns

pytestmark = pytest.mark.timeout(20)


def asks(seconds: float = 5.0) -> dict[str, Any]:
    return {"op": "acquire", "call": 3, "spec": asdict(SPEC), "seconds": seconds, "avoid": None}


def connecting(*failures: OSError | None) -> Any:
    """`connect` of one sandbox after the other."""
    turns = iter(failures)

    def connect(_: FakeSandbox) -> socket.socket:
        if failure := next(turns):
            raise failure
        return socket.socket(socket.AF_UNIX)

    return connect


@run
async def test_a_sandbox_that_dies_between_its_start_and_the_channel_is_replaced_at_once() -> None:
    """Its zygote is dead, its init not yet: it looks alive, and nothing of the user's has run in it."""
    house = House()
    first = await house.acquire()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeSandbox, "connect", connecting(BrokenPipeError(), None))
        answer, channel = await offer(house.pool, asks())
    assert (answer["op"], answer["call"], answer["sandbox"]) == ("acquired", 3, "s2")
    assert channel is not None
    channel.close()
    assert house.gone == [first.id]
    await house.pool.close()


@run
async def test_a_channel_that_cannot_be_made_is_no_reason_to_kill_a_sandbox() -> None:
    house = House()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeSandbox, "connect", connecting(OSError(24, "Too many open files")))
        answer, channel = await offer(house.pool, asks())
    assert (answer["op"], answer["reason"], channel) == ("failed", None, None)
    assert house.gone == []
    await house.pool.close()


@pytest.mark.parametrize(
    ("failure", "reason", "kind"),
    [
        (SandboxError("no", reason="oom"), "oom", "SandboxError"), (KeyError("import_ms"), None, "KeyError"),
        (TimeoutError(), "timeout", "Timeout"), (OverflowError("too large"), None, "OverflowError"),
    ],
)  # fmt: skip
def test_whatever_goes_wrong_there_is_an_answer(failure: Exception, reason: str | None, kind: str) -> None:
    async def story() -> None:
        house = House()
        house.failure = failure
        answer, channel = await offer(house.pool, asks())
        assert (answer["op"], answer["call"], channel) == ("failed", 3, None)
        assert (answer["reason"], answer["error"]["type"]) == (reason, kind)
        await house.pool.close()

    asyncio.run(story())


@run
async def test_what_became_of_a_sandbox_is_known_after_its_end() -> None:
    house = House()
    killed, dead = await house.acquire(), await house.acquire(OTHER)
    killed.fate = Error(type="OutOfMemory", message="too much")
    for each in killed, dead:
        each.die()
    await turns()
    answers = [fate(house.pool, {"call": n, "sandbox": name}) for n, name in enumerate([killed.id, dead.id, "unheard"])]
    assert [each["call"] for each in answers] == [0, 1, 2]
    assert [each["reason"] for each in answers] == ["oom", None, None]
    assert [each["error"]["type"] for each in answers] == ["OutOfMemory", "SandboxLost", "SandboxLost"]
    await house.pool.close()


@run
async def test_a_start_that_takes_too_long_is_answered_in_time() -> None:
    house = House()
    house.gate.clear()
    began = time.monotonic()
    answer, _ = await offer(house.pool, asks(seconds=0.1))
    assert answer["reason"] == "timeout"
    assert time.monotonic() - began < 3
    await house.pool.close()


@run
async def test_a_build_hears_what_was_done_for_it_or_why_it_was_not() -> None:
    async def done(log: Log) -> None:
        log("one")
        log("two")

    async def refused(log: Log) -> None:
        raise ImageError("no image")

    async def broken(log: Log) -> None:
        raise KeyError("a defect")

    assert await prepare(done, 7) == {"op": "prepared", "call": 7, "interpreter": None, "log": "one\ntwo"}
    answers = [await prepare(work, 7) for work in (refused, broken)]
    assert [(each["call"], each["reason"], each["error"]["message"]) for each in answers] == [
        (7, "build_failed", "no image"),
        (7, None, "'a defect'"),
    ]


@run
async def test_a_preparation_s_log_is_bounded_whatever_an_engine_says() -> None:
    async def talk(log: Log) -> None:
        for number in range(100_000):
            log(f"{number} " + "\U0001f600" * 1000)

    answer = await prepare(talk, 7)
    assert answer["log"].splitlines()[-1].startswith("99999 ")
    assert len(answer["log"]) < 64 * 1024


@run
async def test_a_crew_keeps_no_account_of_sandboxes_that_are_gone() -> None:
    async def bury(_: Member) -> None:
        raise AssertionError

    crew = Crew("s", [], {}, lambda *_: None, bury)
    member = Member("w", "sync", cast(asyncio.subprocess.Process, None))
    told: list[dict[str, Any]] = []
    member.line = cast(Line, SimpleNamespace(send=told.append))
    crew._members.add(member)
    member.sandboxes |= {"s1", "s2"}
    crew.forget("s1")
    assert member.sandboxes == {"s2"}
    assert told == [{"op": "gone", "sandbox": "s1"}]
