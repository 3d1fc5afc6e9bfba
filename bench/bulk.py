"""P4: ten thousand runs asked for by one request, until the last is a Success on record."""

from __future__ import annotations

import time

from tests.platforms import Platform

from bench import peers
from bench.measure import WrongAnswer, greeting
from bench.scene import Findings, Scene, ratio

RUNS = 10_000
PEER_RUNS = 2_000
"""Of a peer: its rate is the same, its time is not."""
POLL_SECONDS = 0.05


def p4(scene: Scene, found: Findings) -> None:
    """Bulk."""
    scene.deploy("hello")
    with peers.celery_prefork() as celery, peers.rq_pool("SimpleWorker") as simple:
        values = scene.interleaved(
            {
                "faaspot": lambda: bulk(scene.platform, RUNS),
                "Celery prefork 4": lambda: celery.many(PEER_RUNS),
                "RQ SimpleWorker, pool of 4": lambda: simple.many(PEER_RUNS),
            }
        )
    rows = {name: found.row("P4", name, "runs/s", rates) for name, rates in values.items()}
    found.at_least("P4", "10,000 runs by bulk, runs/s", rows["faaspot"].median, 1800)
    found.at_least("P4", "times Celery prefork 4", ratio(rows["faaspot"], rows["Celery prefork 4"]), 2.0)


def bulk(platform: Platform, runs: int) -> float:
    """Runs a second of one bulk request to `hello`, each answer checked."""
    call = platform.call
    begin = time.perf_counter()
    answer = call("POST", "deployments/hello/bulk_rpc/", [{"name": str(number)} for number in range(runs)])
    assert answer.status == 200, answer
    ids: list[str] = answer.json
    while call("GET", "executions/?limit=1").json:
        time.sleep(POLL_SECONDS)
    took = time.perf_counter() - begin
    records = call("POST", "executions/bulk", ids).json
    for number, record in enumerate(records):
        if record["status"] != "Success" or record["output"] != greeting(number):
            raise WrongAnswer(f"run {number} of the bulk: {record}")
    return runs / took
