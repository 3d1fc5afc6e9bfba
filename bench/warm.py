"""Warm runs: P1 (one client), P2 (many), P3 (the process kept), P9 (one after the other, as Windmill measures)."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from bench import peers
from bench.measure import Load, greeting, http_caller, many_clients, one_after_the_other, one_client
from bench.scene import Findings, Scene, ratio

CLIENTS, CROWD = 16, 64
FIBO = """\
def fibo(n):
    return n if n < 2 else fibo(n - 1) + fibo(n - 2)

def main(args, context):
    assert fibo(10) == 55
    return 'Hello ' + args['name']
"""


def p1(scene: Scene, found: Findings) -> None:
    """A sync run, warm, a fresh process for each, one client."""
    scene.deploy("hello")
    loads: dict[str, list[Load]] = {}

    def measured(name: str, measure: Callable[[], Load]) -> Callable[[], float]:
        def call() -> float:
            loads.setdefault(name, []).append(measure())
            return loads[name][-1].p50

        return call

    with ExitStack() as stack:
        flask = stack.enter_context(peers.plain_flask())
        framework = stack.enter_context(peers.functions_framework())
        simple = stack.enter_context(peers.rq_pool("SimpleWorker"))
        forking = stack.enter_context(peers.rq_pool("Worker"))
        celery = stack.enter_context(peers.celery_prefork())
        seconds = scene.seconds
        ours, theirs = "faaspot: sandboxed, recorded", "functions-framework, gunicorn 4x4"
        measures = {
            ours: lambda: one_client(scene.target("hello"), seconds=seconds),
            "Flask, gunicorn 4x4: the floor": lambda: one_client(flask, seconds=seconds / 2),
            theirs: lambda: one_client(framework, seconds=seconds / 2),
            "RQ SimpleWorker, pool of 4": lambda: one_after_the_other(simple.call, seconds=seconds / 2),
            "RQ Worker, pool of 4": lambda: one_after_the_other(forking.call, seconds=seconds / 2, warm=3),
            "Celery prefork 4": lambda: one_after_the_other(celery.call, seconds=seconds / 2),
        }
        if (docker := peers.docker_run()) is not None:
            measures["docker run, a container each"] = lambda: one_after_the_other(docker, seconds=0, most=5, warm=1)
        values = scene.interleaved({name: measured(name, measure) for name, measure in measures.items()})
    rows = {name: found.row("P1", f"{name}, p50", "ms", took) for name, took in values.items()}
    for name in measures:
        found.row("P1", f"{name}, p99", "ms", [load.p99 for load in loads[name]])
    found.at_most("P1", "sync run, one client, p50 in ms", rows[ours].median, 1.6)
    found.at_most("P1", "times functions-framework", ratio(rows[ours], rows[theirs]), 3.5)


def p2(scene: Scene, found: Findings) -> None:
    """The same with 16 and 64 clients."""
    scene.deploy("hello")
    with ExitStack() as stack:
        flask = stack.enter_context(peers.plain_flask())
        simple = stack.enter_context(peers.rq_pool("SimpleWorker"))
        forking = stack.enter_context(peers.rq_pool("Worker"))
        seconds = scene.seconds
        values = scene.interleaved(
            {
                "faaspot, 16 clients": lambda: many_clients(scene.target("hello"), CLIENTS, seconds=seconds).rate,
                "faaspot, 64 clients": lambda: many_clients(scene.target("hello"), CROWD, seconds=seconds).rate,
                "Flask, gunicorn 4x4, 16 clients": lambda: many_clients(flask, CLIENTS, seconds=seconds / 2).rate,
                "RQ SimpleWorker, pool of 4": lambda: simple.many(800),
                "RQ Worker, pool of 4": lambda: forking.many(160),
            }
        )
    rows = {name: found.row("P2", name, "runs/s", rates) for name, rates in values.items()}
    ours = rows["faaspot, 16 clients"]
    found.at_least("P2", "runs/s with 16 clients", ours.median, 1500)
    found.at_least("P2", "times RQ SimpleWorker", ratio(ours, rows["RQ SimpleWorker, pool of 4"]), 1.0)
    found.at_least("P2", "times RQ Worker", ratio(ours, rows["RQ Worker, pool of 4"]), 5.0)


def p3(scene: Scene, found: Findings) -> None:
    """The process kept between runs."""
    scene.deploy("kept", reuse=True)
    scene.deploy("hello")
    target, seconds = scene.target("kept"), scene.seconds
    values = scene.interleaved(
        {
            "reuse, one client, p50": lambda: one_client(target, seconds=seconds).p50,
            "a fresh process each, one client, p50": lambda: one_client(scene.target("hello"), seconds=seconds).p50,
            "reuse, 16 clients": lambda: many_clients(target, CLIENTS, seconds=seconds).rate,
        }
    )
    units = {"reuse, 16 clients": "runs/s"}
    rows = {name: found.row("P3", name, units.get(name, "ms"), figures) for name, figures in values.items()}
    found.at_most("P3", "reuse, one client, p50 in ms", rows["reuse, one client, p50"].median, 0.9)
    found.at_least("P3", "reuse, runs/s with 16 clients", rows["reuse, 16 clients"].median, 3000)


def p9(scene: Scene, found: Findings) -> None:
    """40 runs of fibo(10), one after the other."""
    scene.deploy("fibo", FIBO)

    def kept() -> float:
        call, close = http_caller(scene.target("fibo"))
        try:
            return _forty(call)
        finally:
            close()

    def anew(number: int) -> None:
        answer = scene.platform.run("fibo", {"name": str(number)})
        assert answer.status == 200, answer
        assert answer.json == greeting(number), answer

    kept()
    values = scene.interleaved({"over one connection": kept, "a new connection each": lambda: _forty(anew)})
    rows = [found.row("P9", f"faaspot, 40 x fibo(10), {name}, per run", "ms", took) for name, took in values.items()]
    found.at_most("P9", "ms a run, over one connection", rows[0].median, 3.0)


def _forty(call: Callable[[int], None]) -> float:
    """Milliseconds a run."""
    begin = time.perf_counter()
    for number in range(40):
        call(number)
    return (time.perf_counter() - begin) * 1000 / 40
