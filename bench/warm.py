"""How long a synchronous run of a warm function takes, beside RQ's default Worker on the same machine in the same run.

    python bench/warm.py [--runs 300]

Starts a platform of its own (`fas up`), calls one warm function over one keep-alive connection, one call after the
other, and then does the same with plain RQ: enqueue, wait for the result, one job after the other, on RQ's default
Worker, which forks for each job, too, but isolates and records nothing. Prints percentiles and the ratio; a wrong or
missing answer ends the bench with an error.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform as machine
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from redis import Redis
from rq import Queue
from tests.platforms import Platform, eventually, platform

HELLO = "def main(args, context):\n    return 'Hello ' + args['name']\n"


def hello(name: str) -> str:
    return "Hello " + name


def measure(call: Callable[[int], None], runs: int) -> list[float]:
    """Milliseconds of each of `runs` calls, after a tenth as many to warm up."""
    for number in range(max(5, runs // 10)):
        call(number)
    took = []
    for number in range(runs):
        begin = time.perf_counter()
        call(number)
        took.append((time.perf_counter() - begin) * 1000)
    return took


def faaspot_caller(running: Platform) -> Callable[[int], None]:
    connection = http.client.HTTPConnection(running.host, running.port)
    headers = {"Authorization": f"Token {running.token}", "Content-Type": "application/json"}

    def call(number: int) -> None:
        body = json.dumps({"name": str(number)})
        connection.request("POST", "/v1/sync/deployments/hello/rpc/", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        assert json.loads(text) == f"Hello {number}", text

    return call


@contextlib.contextmanager
def rq_caller(running: Platform) -> Iterator[Callable[[int], None]]:
    """RQ's default Worker on a Redis of its own, of the same binary as the platform's."""
    binary = next(
        Path(f"/proc/{pid}/exe").resolve() for pid in running.processes("valkey") or running.processes("redis")
    )
    with tempfile.TemporaryDirectory(prefix="faaspot-bench-") as folder:
        socket = f"{folder}/r.sock"
        server = subprocess.Popen(
            [binary, "--port", "0", "--unixsocket", socket, "--appendonly", "yes", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        eventually(lambda: os.path.exists(socket), 10, "redis")
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        worker = subprocess.Popen(
            [sys.executable, "-m", "rq.cli", "worker", "--url", f"unix://{socket}", "-q", "bench"],
            env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            queue = Queue("bench", connection=Redis(unix_socket_path=socket))

            def call(number: int) -> None:
                job = queue.enqueue("warm.hello", str(number))
                result = job.latest_result(timeout=30)
                assert result is not None
                assert result.return_value == f"Hello {number}", result

            yield call
        finally:
            worker.terminate()
            worker.wait()
            server.terminate()
            server.wait()


def row(name: str, took: list[float], base: float) -> str:
    cuts = statistics.quantiles(took, n=100)
    return f"| {name} | {cuts[49]:.2f} | {cuts[94]:.2f} | {cuts[98]:.2f} | {cuts[49] / base:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=300)
    runs = parser.parse_args().runs
    setup = "root" if os.geteuid() == 0 else "user"
    with platform(setup) as running:
        running.deploy("hello", HELLO)
        ours = measure(faaspot_caller(running), runs)
        with rq_caller(running) as call:
            theirs = measure(call, runs)
        again = measure(faaspot_caller(running), runs)
    base = statistics.median(theirs)
    where = f"{machine.platform()}, {os.cpu_count()} cores, Python {machine.python_version()}, rq {version('rq')}"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {where}, as {setup}")
    print("| one client, one after the other, ms | p50 | p95 | p99 | p50 / RQ's |\n|---|---|---|---|---|")
    print(row("faaspot, sync run over HTTP, sandboxed, recorded", ours, base))
    print(row("RQ default Worker, enqueue to result, no isolation, no record", theirs, base))
    print(row("faaspot again", again, base))


if __name__ == "__main__":
    main()
