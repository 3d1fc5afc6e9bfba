"""What a sandbox holds is given back once, and not while something may still have it."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from pathlib import Path
from typing import cast

import pytest

from faaspot_runner.connectors.sandbox import SandboxConnector
from faaspot_runner.contract import SandboxSpec
from faaspot_runner.sandbox import features
from faaspot_runner.sandbox import holdings as holdings_module
from faaspot_runner.sandbox.cgroup_tree import Group
from faaspot_runner.sandbox.holdings import Holdings
from faaspot_runner.sandbox.namespaces import UidPairs
from faaspot_runner.sandbox.spec import Material
from tests.unit.runner.sandbox_driver import Driver, interpreter

FIRST = 1_900_000_000


class Occupied:
    """A group in which something does not die."""

    def remove(self) -> bool:
        return False


def test_a_uid_that_something_may_still_have_goes_to_no_other_sandbox() -> None:
    pair = UidPairs(FIRST).acquire()
    first = pair.first
    holdings = Holdings(pair=pair, group=cast(Group, Occupied()))
    holdings.free()
    del holdings, pair
    gc.collect()
    other = UidPairs(FIRST).acquire()
    assert other.first != first
    other.release()
    holdings_module._TAKEN.pop().release()


@pytest.mark.timeout(60)
@pytest.mark.skipif(bool(features.missing_for_sandbox()), reason="this kernel has no sandboxes")
@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's sandboxes hold nothing")
def test_a_start_that_is_given_up_gives_back_what_it_was_just_given() -> None:
    async def story() -> set[str]:
        driver = Driver("sandbox")
        await driver.connector.deploy(False)
        assert isinstance(driver.connector, SandboxConnector)
        assert driver.cgroups is not None
        python = interpreter("/usr/bin/python3")
        await driver.connector.keep(python, None, print)
        spec = SandboxSpec(version_id="v", deployment="d", version=1, runtime="sandbox", python="3", code="0")
        opening = asyncio.create_task(
            driver.connector.open(spec, Material(code=b"", python=python), time.monotonic() + 9)
        )
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        left = held()
        await driver.close()
        return left

    before = held()
    assert asyncio.run(story()) == before


def held() -> set[str]:
    """The uid pairs that this process holds."""
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    own = {os.readlink(f"/proc/self/fd/{n}") for n in numbers if os.path.lexists(f"/proc/self/fd/{n}")}
    sockets = (line.split() for line in Path("/proc/net/unix").read_text().splitlines() if "@faaspot-uids-" in line)
    return {fields[-1] for fields in sockets if f"socket:[{fields[6]}]" in own}
