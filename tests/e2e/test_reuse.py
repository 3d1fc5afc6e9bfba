"""`reuse`: a process serves run after run, and one that did not end its run well serves no other."""

from __future__ import annotations

import time

from tests.e2e.test_first_run import removed
from tests.platforms import Answer, Platform

COUNTING = """\
import os, time

count, born = 0, ""

def main(args, context):
    global count, born
    count, born = count + 1, born or os.urandom(8).hex()
    print("run", count, "of", born, flush=True)
    time.sleep(args.get("sleep", 0))
    if args.get("leave"):
        os._exit(3)
    if args.get("raise"):
        raise ValueError("no")
    held = bytearray(args.get("eat", 0) << 20)
    held[::4096] = b"x" * len(held[::4096])
    return [os.environ["FAASPOT_EXECUTION_ID"], count, born]
"""


def counted(platform: Platform, **settings: object) -> None:
    removed(platform, "counting")
    platform.deploy("counting", COUNTING, reuse=True, **settings)


def kept(platform: Platform) -> tuple[int, str]:
    """The count and the mark of a process that has served before."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        answer = platform.run("counting")
        assert answer.status == 200, answer
        uuid, count, born = answer.json
        assert uuid == answer.headers["Execution-Id"]
        assert platform.logs(uuid) == f"run {count} of {born}\n"
        if count > 1:
            return count, born
    raise AssertionError("no process served twice")


def served(platform: Platform, times: int = 12) -> set[str]:
    """The marks of the processes that serve now."""
    return {platform.run("counting").json[2] for _ in range(times)}


def ended_badly(platform: Platform, args: dict[str, object], reason: str) -> None:
    """Run it so, and see that the process which did never serves again."""
    counted(platform, timeout=2)
    kept(platform)
    for _ in range(2):
        answer = platform.run("counting", args)
        assert record(platform, answer)["reason"] == reason, answer
        assert serving(platform, answer) not in served(platform)


def record(platform: Platform, answer: Answer) -> dict[str, object]:
    return platform.record(answer.headers["Execution-Id"])


def serving(platform: Platform, answer: Answer) -> str:
    """The mark of the process that has run it."""
    return platform.logs(answer.headers["Execution-Id"]).split()[3]


def test_a_process_serves_run_after_run_each_with_its_own_id_and_log(platform: Platform) -> None:
    counted(platform)
    count, born = kept(platform)
    assert count >= 2
    assert born in served(platform)


def test_an_exception_is_the_runs_own_and_not_the_end_of_the_process(platform: Platform) -> None:
    counted(platform)
    kept(platform)
    before = served(platform)
    assert record(platform, platform.run("counting", {"raise": 1}))["reason"] == "error"
    assert before & served(platform)


def test_a_process_that_leaves_is_replaced(platform: Platform) -> None:
    ended_badly(platform, {"leave": 1}, "error")


def test_a_process_that_hangs_is_replaced(platform: Platform) -> None:
    ended_badly(platform, {"sleep": 60}, "timeout")


def test_a_process_over_its_memory_is_replaced(platform: Platform) -> None:
    """As an ordinary user Python may raise a MemoryError before the limit is passed: then it goes on."""
    counted(platform, memory=64)
    kept(platform)
    answer = platform.run("counting", {"eat": 200})
    reason = record(platform, answer)["reason"]
    if reason == "oom":
        assert serving(platform, answer) not in served(platform)
    else:
        assert (platform.setup, reason) == ("user", "error")


def test_another_version_has_processes_of_its_own(platform: Platform) -> None:
    counted(platform)
    kept(platform)
    change = {"code": "def main(args, context):\n    return 'new'\n"}
    answer = platform.call("PATCH", "deployments/counting", change)
    assert platform.ended(answer.json["uuid"])["status"] == "Success"
    assert {platform.run("counting").json for _ in range(6)} == {"new"}


def test_without_it_every_run_has_a_process_of_its_own(platform: Platform) -> None:
    removed(platform, "counting")
    platform.deploy("counting", COUNTING)
    answers = [platform.run("counting") for _ in range(8)]
    assert {answer.json[1] for answer in answers} == {1}
    assert len({answer.json[2] for answer in answers}) == 8
    assert all(answer.json[0] == answer.headers["Execution-Id"] for answer in answers)
