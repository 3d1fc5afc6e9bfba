"""A seeded random schedule of faults against a whole platform under load, and the verdict on what its callers saw.

``make chaos ARGS="--seconds 600 --seed 1"`` or ``python -m tests.faults.chaos``; prints the summary as JSON and ends
with 1 if anything was lost, ended twice, overlapped or leaked.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import random
import sys
import threading
import time
from typing import Any

from tests.faults import faults, history
from tests.faults.history import Acknowledged, History, Verdict
from tests.faults.watcher import CODE, Watcher
from tests.faults.worlds import World, world
from tests.platforms import SETUPS, Traces, user_python
from tests.receivers import receiving

CALLERS = 6
SETTLE_SECONDS = 150.0


def chaos(seconds: float, seed: int, setup: str = SETUPS[0]) -> Verdict:
    """Faults and load for `seconds`, then peace until all is quiet, then the verdict."""
    user_python()
    seen = History()
    with world(setup) as made, receiving(_deaf_now_and_then(seed)) as receiver:
        before, platform = Traces.now(), made.platform
        platform.start()
        platform.deploy("mark", CODE, memory=64)
        platform.deploy("told", CODE, memory=64, callback_url=receiver.url)
        over = threading.Event()
        callers = [threading.Thread(target=_call, args=(made, seen, seed, n, over)) for n in range(CALLERS)]
        with Watcher(seen) as watcher:
            for caller in callers:
                caller.start()
            _break_things(made, seen, random.Random(seed), seconds)
            over.set()
            for caller in callers:
                caller.join()
            history.settled(platform, seen, receiver, SETTLE_SECONDS)
        if platform.stop() != 0:
            seen.problem("stop: fas up did not end with 0")
        made.close()
        return history.judge(platform.data, seen, receiver, watcher.overlaps, Traces.since(before), seconds, seed)


def _deaf_now_and_then(seed: int) -> Any:
    chance = random.Random(seed)
    return lambda _number: 503 if chance.random() < 0.1 else 204


def _break_things(world: World, seen: History, chance: random.Random, seconds: float) -> None:
    """One fault after the other, with a moment between them, until the time is over; then everything is made whole."""
    end = time.monotonic() + seconds
    known = [fault for fault in faults.FAULTS if world.small_disk or fault is not faults.fill_disk]
    turn: list[faults.Fault] = []
    while time.monotonic() < end:
        if not turn:  # each kind once, in an order of chance, before any comes again
            turn = chance.sample(known, len(known))
        fault = turn.pop()
        print(f"{time.strftime('%H:%M:%S')} {fault.__name__}", file=sys.stderr, flush=True)
        fault(world, chance)
        seen.fault(fault.__name__)
        time.sleep(chance.uniform(0.2, 2.0))
    world.heal()


# ---------------------------------------------------------------- the load


def _call(world: World, seen: History, seed: int, caller: int, over: threading.Event) -> None:
    """One caller: asks for runs under keys of its own, again until each is acknowledged, until `over`."""
    chance = random.Random(f"{seed} {caller}")
    mine: list[str] = []
    for number in range(1_000_000):
        if over.is_set():
            return
        key, n = f"{caller}-{number}", caller * 1_000_000 + number
        args = {"n": n, "s": chance.choice((0.0, 0.05, 0.3, 1.0, 3.0, 8.0 if chance.random() < 0.2 else 0.1))}
        name = "told" if chance.random() < 0.3 else "mark"
        sync = chance.random() < 0.3
        while (run := _ask(world, seen, key, name, args, sync)) is None:
            over.wait(chance.uniform(0.05, 0.5))
            if over.is_set():
                break
        if run is not None:
            run.n, run.callback = n, name == "told"
            seen.acknowledged(key, run)
            mine.append(run.uuid)
        if mine and chance.random() < 0.05:
            _cancel(world, seen, chance.choice(mine[-5:]))


def _ask(world: World, seen: History, key: str, name: str, args: dict[str, Any], sync: bool) -> Acknowledged | None:
    """One try; None if it was not acknowledged."""
    path = f"{'sync/' if sync else ''}deployments/{name}/rpc/"
    headers = {"Idempotency-Key": key} | ({"Prefer": "wait=10"} if sync else {})
    try:
        answer = world.platform.call("POST", path, args, headers=headers, timeout=20)
    except (OSError, http.client.HTTPException) as error:
        seen.refuse(type(error).__name__)
        return None
    uuid = answer.headers.get("Execution-Id")
    if answer.status == 200:
        return Acknowledged(uuid=str(uuid), n=0, told=answer.json if sync else None)
    try:
        problem = answer.json
    except ValueError:
        problem = {}
    seen.refuse(f"{answer.status} {problem.get('error_code', '')}".strip())
    if answer.status == 500 and problem.get("error_code") == "internal":
        seen.problem(f"internal: {path} answered {answer.text[:300]}")
    uuid = uuid or problem.get("execution_id")
    return Acknowledged(uuid=str(uuid), n=0) if uuid else None


def _cancel(world: World, seen: History, uuid: str) -> None:
    seen.cancelled.add(uuid)  # before: the answer may be lost
    with contextlib.suppress(OSError, http.client.HTTPException):
        world.platform.call("DELETE", f"executions/{uuid}", timeout=10)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make chaos ARGS=...", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--setup", choices=SETUPS, default=SETUPS[0])
    said = parser.parse_args()
    print(f"seed {said.seed}", file=sys.stderr, flush=True)
    verdict = chaos(said.seconds, said.seed, said.setup)
    print(verdict.text())
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
