"""The pool of warm sandboxes, with sandboxes that do nothing but live and die."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from faaspot_runner.connectors.base import Sandbox
from faaspot_runner.contract import Error, SandboxSpec
from faaspot_runner.errors import SandboxError
from faaspot_runner.runtimes.pool import LINGER, SandboxPool

pytestmark = pytest.mark.timeout(20)

SPEC = SandboxSpec(version_id="v1", deployment="d", version=1, runtime="sandbox", python="3.11", code="0" * 64)
OTHER = replace(SPEC, version_id="v2", version=2, environment="e" * 32, lock="1" * 64)


class FakeSandbox(Sandbox):
    """A sandbox whose death is an end of file on a pipe."""

    def __init__(self, number: int, spec: SandboxSpec) -> None:
        self.id, self.spec = f"s{number}", spec
        self.start_ms = self.import_ms = 1.0
        self.imports = {}
        self.log = "imported"
        self.counted = True
        self.life, self._end = os.pipe()
        self.living = True
        self.retired = self.stopped = False

    def connect(self) -> socket.socket:
        raise NotImplementedError

    def alive(self) -> bool:
        return self.living

    def fileno(self) -> int:
        return self.life

    def die(self) -> None:
        self.living = False
        os.close(self._end)

    def retire(self) -> None:
        self.retired = True

    async def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            if self.living:
                self.die()
            os.close(self.life)


class House:
    """Opens fake sandboxes for a pool, and says what time it is."""

    def __init__(self, most: int = 10, idle: float = 100.0) -> None:
        self.opened: list[FakeSandbox] = []
        self.gone: list[str] = []
        self.leaving: list[str] = []
        self.time = 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.starts = 0
        self.free = 1.0
        self.pool = SandboxPool(
            self._open,
            most=most,
            idle=idle,
            gone=self.gone.append,
            leaves=self.leaving.append,
            clock=lambda: self.time,
            free=lambda: self.free,
        )

    async def _open(self, spec: SandboxSpec, deadline: float) -> Sandbox:
        self.starts += 1
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.opened.append(FakeSandbox(len(self.opened) + 1, spec))
        return self.opened[-1]

    async def acquire(self, spec: SandboxSpec = SPEC, avoid: str | None = None) -> FakeSandbox:
        acquired = await self.pool.acquire(spec, time.monotonic() + 5, avoid)
        assert isinstance(acquired.sandbox, FakeSandbox)
        return acquired.sandbox


def run(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """A test on an event loop of its own."""

    def runner() -> None:
        asyncio.run(test())  # type: ignore[arg-type]

    runner.__name__, runner.__doc__ = test.__name__, test.__doc__
    return runner


async def turns() -> None:
    """Let what can happen happen: enough turns of the loop for a readable descriptor to be seen."""
    for _ in range(10):
        await asyncio.sleep(0)


@run
async def test_a_sandbox_is_started_once_however_many_ask_and_only_the_first_gets_its_log() -> None:
    house = House()
    house.gate.clear()
    asked = [asyncio.create_task(house.pool.acquire(SPEC, time.monotonic() + 5)) for _ in range(20)]
    await turns()
    house.gate.set()
    acquired = await asyncio.gather(*asked)
    assert house.starts == 1
    assert [each.first for each in acquired].count(True) == 1
    assert all(each.cold for each in acquired)
    again = await house.pool.acquire(SPEC, time.monotonic() + 5)
    assert (again.cold, again.first) == (False, False)
    await house.pool.close()


@run
async def test_each_spec_has_a_sandbox_of_its_own() -> None:
    house = House()
    first, second = await house.acquire(SPEC), await house.acquire(OTHER)
    assert first is not second
    assert house.pool.environments == {OTHER.environment}
    await house.pool.close()
    assert first.stopped
    assert second.stopped
    assert house.pool.environments == frozenset()


@run
async def test_while_memory_is_short_the_least_used_go_first_a_quarter_at_a_time() -> None:
    house = House()
    made = []
    for number in range(8):
        house.time = float(number)
        made.append(await house.acquire(replace(SPEC, version_id=f"v{number}")))
    house.time = 7.0 + LINGER
    house.pool.evict()
    assert not any(each.retired for each in made), "there is memory enough"
    house.free = 0.05
    house.pool.evict()
    assert [each.retired for each in made] == [True] * 2 + [False] * 6
    house.pool.evict()
    house.free = 0.5
    house.pool.evict()
    assert [each.retired for each in made] == [True] * 4 + [False] * 4
    house.free = 0.05
    house.time = 8.0
    house.pool.evict()
    assert sum(each.retired for each in made) == 4, "what was used a moment ago stays"
    await house.pool.close()


@run
async def test_memory_that_is_short_has_no_slow_start_done_twice() -> None:
    house = House()
    house.free = 0.05
    house.gate.clear()
    first = asyncio.create_task(house.acquire())
    await turns()
    house.time = LINGER + 1
    house.pool.evict()
    second = asyncio.create_task(house.acquire())
    await turns()
    house.gate.set()
    assert await first is await second
    assert house.starts == 1
    await house.pool.close()


@run
async def test_a_failed_start_is_told_to_all_who_waited_and_the_next_asker_tries_again() -> None:
    house = House()
    house.failure = SandboxError("no", reason="error", error=Error(type="ValueError", message="no"))
    house.gate.clear()
    asked = [asyncio.create_task(house.acquire()) for _ in range(3)]
    await turns()
    house.gate.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert results == [house.failure] * 3
    house.failure = None
    assert (await house.acquire()).alive()
    assert house.starts == 2
    await house.pool.close()


@run
async def test_one_who_runs_out_of_time_leaves_the_others_their_start() -> None:
    house = House()
    house.gate.clear()
    patient = asyncio.create_task(house.acquire())
    await turns()
    with pytest.raises(TimeoutError):
        await house.pool.acquire(SPEC, time.monotonic())
    cancelled = asyncio.create_task(house.acquire())
    await turns()
    cancelled.cancel()
    await turns()
    house.gate.set()
    assert (await patient).alive()
    assert house.starts == 1
    await house.pool.close()


@run
async def test_a_death_is_noticed_freed_and_told() -> None:
    house = House()
    sandbox = await house.acquire()
    sandbox.die()
    await turns()
    assert sandbox.stopped
    assert house.gone == [sandbox.id]
    assert len(house.pool) == 0
    assert await house.acquire() is not sandbox
    await house.pool.close()


@run
async def test_a_sandbox_found_dead_at_the_asking_is_replaced() -> None:
    house = House()
    sandbox = await house.acquire()
    sandbox.living = False
    assert await house.acquire() is not sandbox
    os.close(sandbox._end)
    await house.pool.close()


@run
async def test_a_sandbox_that_failed_the_asker_is_retired_for_a_new_one() -> None:
    house = House()
    sandbox = await house.acquire()
    fresh = await house.acquire(avoid=sandbox.id)
    assert fresh is not sandbox
    assert sandbox.retired
    assert not sandbox.stopped
    assert await house.acquire(avoid=sandbox.id) is fresh
    await house.pool.close()


@run
async def test_what_was_idle_too_long_is_retired_and_then_stopped() -> None:
    house = House(idle=100.0)
    idle, busy = await house.acquire(SPEC), await house.acquire(OTHER)
    house.time = 101.0
    house.pool.touch([busy.id])
    house.pool.evict()
    assert (idle.retired, busy.retired) == (True, False)
    assert not idle.stopped
    house.pool.evict()
    await turns()
    assert idle.stopped
    assert not busy.stopped
    await house.pool.close()


@run
async def test_a_retired_sandbox_lives_as_long_as_a_worker_uses_it() -> None:
    house = House()
    sandbox = await house.acquire()
    house.pool.release(["v1"])
    assert sandbox.retired
    assert house.leaving == [sandbox.id], "the workers end what they keep in it for next runs: it waits for that"
    assert house.gone == [], "a worker that dies now still takes it along, where no cgroup says what was its own"
    for second in range(1, 100):
        house.time = float(second)
        house.pool.touch([sandbox.id])
        house.pool.evict()
    await turns()
    assert not sandbox.stopped
    house.time += LINGER + 1
    house.pool.evict()
    await turns()
    assert sandbox.stopped
    await house.pool.close()


@run
async def test_a_retired_sandbox_that_ends_by_itself_is_freed() -> None:
    house = House()
    sandbox = await house.acquire()
    house.pool.release(["v1"])
    sandbox.die()
    await turns()
    assert sandbox.stopped
    await house.pool.close()


@run
async def test_release_of_a_version_while_its_sandbox_starts_lets_those_who_wait_have_it() -> None:
    house = House()
    house.gate.clear()
    asked = asyncio.create_task(house.acquire())
    await turns()
    house.pool.release(["v1"])
    house.gate.set()
    sandbox = await asked
    assert sandbox.retired
    assert await house.acquire() is not sandbox
    await house.pool.close()


@run
async def test_beyond_the_most_the_least_used_one_goes() -> None:
    house = House(most=2)
    specs = [replace(SPEC, version_id=f"v{number}", version=number) for number in range(3)]
    first = await house.acquire(specs[0])
    house.time = 1.0
    second = await house.acquire(specs[1])
    house.time = 2.0
    await house.acquire(specs[0])
    await house.acquire(specs[2])
    assert (first.retired, second.retired) == (False, True)
    await house.pool.close()


@run
async def test_a_suspect_is_killed_at_once() -> None:
    house = House()
    sandbox = await house.acquire()
    assert house.pool.suspect(sandbox.id)
    await turns()
    assert sandbox.stopped
    assert not house.pool.suspect(sandbox.id)
    await house.pool.close()


@run
async def test_close_stops_what_is_just_starting() -> None:
    house = House()
    house.gate.clear()
    asked = asyncio.create_task(house.acquire())
    await turns()
    await house.pool.close()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert len(house.pool) == 0


# ---------------------------------------------------------------- the end of a runtime


@run
async def test_a_runtime_that_goes_waits_for_its_sandboxes_and_leaves_the_others() -> None:
    house = House()
    mine, other = await house.acquire(replace(SPEC, runtime="strict")), await house.acquire()
    clearing = asyncio.create_task(house.pool.clear("strict", 5))
    await turns()
    assert (mine.retired, mine.stopped, clearing.done()) == (True, False, False)
    mine.die()
    await clearing
    assert mine.stopped
    assert (other.retired, await house.acquire()) == (False, other)
    await house.pool.close()


@run
async def test_what_does_not_end_in_its_time_is_stopped() -> None:
    house = House()
    mine = await house.acquire(replace(SPEC, runtime="strict"))
    await house.pool.clear("strict", 0)
    assert mine.stopped
    assert (house.leaving, house.gone) == ([mine.id], [mine.id])
    assert len(house.pool) == 0


@run
async def test_one_that_is_still_starting_is_waited_for_and_then_left_to_its_connector() -> None:
    house = House()
    house.gate.clear()
    asked = asyncio.create_task(house.acquire(replace(SPEC, runtime="strict")))
    await turns()
    await house.pool.clear("strict", 0)
    house.failure = SandboxError("the runtime is gone")
    house.gate.set()
    with pytest.raises(SandboxError):
        await asked
    await house.pool.clear("strict", 5)
    assert len(house.pool) == 0
