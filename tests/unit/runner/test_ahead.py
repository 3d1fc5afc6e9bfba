"""What stands ready before anybody runs it: started once, kept, and not tried in vain all the time."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest

from faaspot_runner.contract import SandboxSpec
from faaspot_runner.errors import SandboxError
from faaspot_runner.runtimes.ahead import AT_ONCE, STOOD_SECONDS, Ahead
from faaspot_runner.runtimes.pool import LINGER
from tests.unit.runner.test_pool import OTHER, SPEC, House, run, turns

pytestmark = pytest.mark.timeout(20)


class Standing(House):
    """A pool, and what keeps its sandboxes ready."""

    def __init__(self, kept: int = 10, **options: int) -> None:
        super().__init__(**options)
        self.named: dict[str, str] = {}
        self.ahead = Ahead(self.pool, self._install, most=kept, seconds=5, clock=lambda: self.time)

    async def _install(self, spec: SandboxSpec, _: float) -> SandboxSpec:
        return replace(spec, environment=self.named.get(spec.environment or "", spec.environment))

    async def want(self, *specs: SandboxSpec) -> int:
        """Say it, let it happen; how many starts there have been."""
        self.ahead.want(specs)
        await turns()
        return self.starts

    async def close(self) -> None:
        await self.ahead.close()
        await self.pool.close()


@run
async def test_what_is_wanted_is_started_once_and_the_first_run_finds_it_warm_and_gets_its_log() -> None:
    house = Standing()
    assert [await house.want(SPEC, OTHER) for _ in range(3)] == [2, 2, 2]
    found = [await house.pool.acquire(SPEC, time.monotonic() + 5) for _ in range(2)]
    assert [(each.cold, each.first) for each in found] == [(False, True), (False, False)]
    await house.close()


@run
async def test_what_is_wanted_stays_when_nobody_uses_it_and_goes_when_it_is_not_wanted_any_more() -> None:
    house = Standing(idle=10)
    await house.want(SPEC, OTHER)
    house.time = 100.0
    house.pool.evict()
    assert len(house.pool) == 2
    await house.want(OTHER)
    house.pool.evict()
    assert [each.retired for each in house.opened] == [True, False]
    await house.close()


@run
async def test_while_memory_is_short_what_is_wanted_goes_last_and_comes_back_when_there_is_some() -> None:
    house = Standing()
    await house.want(OTHER)
    await house.acquire(SPEC)
    house.time, house.free = LINGER + 1, 0.01
    house.pool.evict()
    assert [each.retired for each in house.opened] == [False, True]
    house.pool.evict()
    assert [each.retired for each in house.opened] == [True, True]
    assert await house.want(OTHER) == 2
    house.free = 1.0
    assert await house.want(OTHER) == 3
    await house.close()


@run
async def test_a_full_pool_lets_others_go_for_a_run() -> None:
    house = Standing(most=2)
    await house.want(SPEC)
    await house.acquire(OTHER)
    house.time = 1.0
    await house.acquire(replace(SPEC, version_id="v3"))
    assert [each.retired for each in house.opened] == [False, True, False]
    await house.close()


@run
async def test_one_that_died_is_started_again() -> None:
    house = Standing()
    await house.want(SPEC)
    house.opened[0].die()
    house.time = STOOD_SECONDS + 1
    await turns()
    assert await house.want(SPEC) == 2
    await house.close()


@run
async def test_what_does_not_come_up_or_does_not_live_is_tried_ever_more_seldom() -> None:
    house, tried = Standing(), []
    house.failure = SandboxError("the import failed")
    for house.time in map(float, range(600)):
        before = house.starts
        if await house.want(SPEC) > before:
            tried.append(house.time)
    pauses = [int(later - sooner) for sooner, later in itertools.pairwise(tried)]
    assert pauses[:6] == [1, 2, 4, 8, 16, 32]
    assert len(tried) < 12
    await house.close()


@run
async def test_few_are_started_at_a_time_and_not_more_than_a_spot_takes() -> None:
    house = Standing(kept=3)
    house.gate.clear()
    specs = [replace(SPEC, version_id=f"v{number}") for number in range(5)]
    assert await house.want(*specs) == AT_ONCE
    house.gate.set()
    await turns()
    assert [await house.want(*specs) for _ in range(3)] == [3, 3, 3]
    await house.close()


@run
async def test_a_version_that_is_gone_is_not_started_by_what_was_said_before() -> None:
    house = Standing()
    await house.want(SPEC)
    house.ahead.release([SPEC.version_id])
    house.pool.release([SPEC.version_id])
    assert await house.want(SPEC) == 1
    await house.want()
    assert await house.want(SPEC) == 2, "a version that is said again after that is one that is there"
    await house.close()


@run
async def test_what_has_another_name_here_is_kept_by_that() -> None:
    """An environment is named by its interpreter, too, and a run asks for it by the name that it has here."""
    house = Standing(idle=10)
    house.named["e" * 32] = "f" * 32
    assert [await house.want(OTHER) for _ in range(3)] == [1, 1, 1]
    found = await house.pool.acquire(replace(OTHER, environment="f" * 32), time.monotonic() + 5)
    assert not found.cold
    house.time = 100.0
    house.pool.evict()
    assert [each.retired for each in house.opened] == [False]
    await house.close()
