"""`kill -9` of one part at a time during runs: the platform comes back by itself and every acknowledged run ends, once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests import platforms
from tests.platforms import SETUPS, Platform, eventually

CODE = "import time\ndef main(args, context):\n    time.sleep(args['s'])\n    return args['n']\n"


@pytest.fixture(scope="module", params=SETUPS)
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    with platforms.platform(request.param) as running:
        running.deploy("work", CODE, concurrency=8)  # what the dead held of them has to come back
        yield running


PARTS = {
    "worker": ("faaspot_runner", "worker"),
    "spot": ("faaspot_runner", "spot", "--ip"),
    "API": ("gunicorn",),
    "recorder": ("faaspot_api", "recorder"),
    "Redis": ("redis.sock",),
}


def victims(platform: Platform, part: str) -> list[int]:
    """Pids of that part. Redis is known by its name, since its command line carries only its configuration."""
    if part == "Redis":
        return platform.processes("valkey") or platform.processes("redis-server")
    if part == "worker":  # those that have the accepted runs
        return platform.processes("faaspot_runner", "worker", "--queue background")
    return platform.processes(*PARTS[part])


@pytest.mark.parametrize("part", PARTS)
def test_every_acknowledged_run_ends_though_a_part_is_killed(platform: Platform, part: str) -> None:
    accepted = [platform.start_run("work", {"s": 0.2, "n": n}) for n in range(30)]
    accepted += [platform.start_run("work", {"s": 3, "n": n}) for n in range(4)]
    eventually(lambda: platform.record(accepted[0])["status"] != "Pending", 20, "the work begins")
    pids = victims(platform, part)
    assert pids, f"no process of the {part} was found"
    for pid in pids if part in ("API", "worker") else pids[:1]:
        os.kill(pid, signal.SIGKILL)
    records = {}
    for execution in accepted:
        records[execution] = eventually(lambda execution=execution: ended(platform, execution), 90, f"{execution} ends")
    for number, execution in enumerate(accepted):
        record = records[execution]
        if record["status"] == "Success":
            assert record["output"] == (number if number < 30 else number - 30)
        else:
            assert record["reason"] in ("worker_lost", "interrupted"), record
    assert sum(record["status"] == "Success" for record in records.values()) >= 30
    if part in ("worker", "spot"):
        hit = [record for record in records.values() if record["attempt"] != 1 or record["reason"] == "worker_lost"]
        assert hit, "the kill met nothing that ran"
    eventually(lambda: platform.call("GET", "/healthz", token=None).status == 200, 20, "the API is healthy")
    assert platform.run("work", {"s": 0, "n": "after"}).json == "after"


def ended(platform: Platform, execution: str) -> dict[str, object] | None:
    """The record if it has ended; None while it has not, or while the platform is away."""
    try:
        record = platform.record(execution)
    except (OSError, AssertionError):
        return None
    return record if record["status"] in ("Success", "Failure", "Cancelled") else None
