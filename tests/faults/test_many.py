"""F18: many runs wait, everything is killed in the middle and started again: each has one end.

``python -m tests.faults.test_many 10000`` does it with as many as that, once with what Redis' log kept and once with
Redis emptied, and prints what it took.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import time
from collections import Counter

import pytest

from tests.faults import faults
from tests.faults.worlds import World, world
from tests.platforms import SETUPS, eventually

CODE = "def main(args, context):\n    return args['n']\n"


@pytest.mark.timeout(240)
def test_f18_everything_killed_in_the_middle_of_many_leaves_each_one_end() -> None:
    with world(SETUPS[0]) as made:
        found = killed_in_the_middle(made, 600, forget=True)
    assert found["ended"] == {"Success": 600}, found
    assert found["ends"] == {"1": 600}, found


def killed_in_the_middle(made: World, runs: int, forget: bool) -> dict[str, object]:
    """Queue so many, kill all when a tenth has ended, start again; how they ended and how often they were started."""
    platform = made.platform
    platform.start()
    platform.deploy("many", CODE, memory=64)
    began = time.monotonic()
    accepted = [
        uuid
        for start in range(0, runs, 1000)
        for uuid in platform.call(
            "POST", "deployments/many/bulk_rpc/", [{"n": n} for n in range(start, min(start + 1000, runs))]
        ).json
    ]
    queued = time.monotonic() - began
    assert len(set(accepted)) == runs
    eventually(lambda: ended(made) >= runs // 10, 120, "a tenth has ended")
    at_the_kill = ended(made)
    assert platform.process is not None
    pids = [platform.process.pid, *made.alive()]
    made.valkey.kill(forget=forget)
    for pid in pids:
        faults.kill(pid)
    platform.process.wait(20)
    made.valkey.start()
    platform.start(90)
    restarted = time.monotonic()
    eventually(lambda: ended(made) >= runs, 60 + runs / 10, "all have ended")
    drained = time.monotonic() - restarted
    platform.stop()
    with contextlib.closing(_database(made)) as database:
        status = Counter(row[0] for row in database.execute("SELECT status FROM executions WHERE kind = 'run'"))
        query = "SELECT execution, what, count(*) FROM events GROUP BY execution, what"
        noted = {(uuid, what): count for uuid, what, count in database.execute(query)}
    return {
        "runs": runs,
        "redis": "emptied" if forget else "kept",
        "ended when everything was killed": at_the_kill,
        "ended": dict(status),
        "ends": {str(n): count for n, count in Counter(noted.get((uuid, "ended"), 0) for uuid in accepted).items()},
        "starts": sum(noted.get((uuid, "started"), 0) for uuid in accepted),
        "seconds": {"queued": round(queued, 1), "ended after the restart": round(drained, 1)},
    }


def ended(made: World) -> int:
    with contextlib.closing(_database(made)) as database:
        query = "SELECT count(*) FROM executions WHERE kind = 'run' AND ended IS NOT NULL"
        count: int = database.execute(query).fetchone()[0]
        return count


def _database(made: World) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{made.platform.data}/db/faaspot.db?mode=ro", uri=True, timeout=30)


if __name__ == "__main__":
    for lost in (False, True):
        with world(SETUPS[0], FAASPOT_MAX_PENDING="100000") as made_here:
            print(json.dumps(killed_in_the_middle(made_here, int(sys.argv[1]), lost), indent=2), flush=True)
