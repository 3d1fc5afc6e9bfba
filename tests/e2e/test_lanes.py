"""Turns on a whole platform: `concurrency` over all workers, and the order of runs."""

from __future__ import annotations

import time
from typing import Any

from tests.e2e.test_first_run import removed
from tests.platforms import Platform

SLOW = """\
import os, time

def main(args, context):
    began = time.time()
    time.sleep(args.get("sleep", 0))
    return [began, time.time(), os.nice(0)]
"""


def ran(platform: Platform, uuids: list[str]) -> list[Any]:
    """What these returned."""
    records = []
    for uuid in uuids:
        records += platform.call("POST", "executions/bulk", [uuid], headers={"Prefer": "wait=60"}).json
    assert {record["status"] for record in records} == {"Success"}, records
    return [record["output"] for record in records]


def most_at_once(times: list[Any]) -> int:
    return max(sum(began <= each[0] < ended for began, ended, _ in times) for each in times)


def test_runs_beyond_the_concurrency_wait_and_none_fails(platform: Platform) -> None:
    removed(platform, "slow")
    platform.deploy("slow", SLOW, concurrency=2)
    uuids = platform.call("POST", "deployments/slow/bulk_rpc/", [{"sleep": 0.1}] * 12).json
    sync = platform.run("slow", {"sleep": 0.1}).json
    times = ran(platform, uuids)

    assert most_at_once([*times, sync]) == 2
    assert sum(began > sync[0] for began, _, _ in times) >= 6, "sync goes before background"
    assert {nice for _, _, nice in times} == {min(19, sync[2] + 5)}, "19 is the most there is"


def test_a_run_of_another_starts_at_once_while_hundreds_wait(platform: Platform) -> None:
    for name in ("slow", "other"):
        removed(platform, name)
        platform.deploy(name, SLOW)
    ran(platform, [platform.start_run("other")])
    uuids = platform.call("POST", "deployments/slow/bulk_rpc/", [{"sleep": 3}] * 300).json
    began = time.time()
    ((started, _, _),) = ran(platform, [platform.start_run("other")])
    assert started - began < 2, "it did not wait for any of them to end"
    assert platform.call("GET", f"executions/{uuids[-1]}").json["status"] == "Pending"
    platform.call("DELETE", "deployments/slow")
