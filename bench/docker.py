"""What a container costs: warm runs, cold starts and builds of the runtime `docker` beside the runtime `sandbox`.

    python bench/docker.py [--runs 500] [--image faaspot-test-base]

As root, with a Docker engine and a base image that has the platform's Python (`.ci/docker` makes both). Starts a
platform of its own and calls one warm function of each runtime in turn, so that both see the same machine. A wrong
answer ends the bench with an error.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.platforms import Platform, platform

RUNTIMES = ("sandbox", "docker")
HELLO = "def main(args, context):\n    return 'hello'\n"
STARTS = 5


def warm(running: Platform, runs: int) -> dict[str, list[float]]:
    """Milliseconds of each call, the runtimes in turn."""
    took: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
    for runtime in RUNTIMES:
        running.deploy(f"warm-{runtime}", HELLO, runtime=runtime, network="none")
        called(running, f"warm-{runtime}")
    for _ in range(runs):
        for runtime in RUNTIMES:
            took[runtime].append(called(running, f"warm-{runtime}"))
    return took


def called(running: Platform, name: str) -> float:
    started = time.perf_counter()
    answer = running.run(name)
    took = (time.perf_counter() - started) * 1000
    assert answer.json == "hello", answer
    return took


def cold(running: Platform) -> dict[str, list[float]]:
    """Milliseconds until a new version's process runs, as its record has them."""
    took: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
    for number in range(STARTS):
        for runtime in RUNTIMES:
            name = f"cold-{runtime}-{number}"
            running.deploy(name, HELLO, runtime=runtime, network="none")
            execution = running.run(name).headers["Execution-Id"]
            took[runtime].append(running.record(execution)["timings"]["start_ms"])
    return took


def built(running: Platform) -> dict[str, list[float]]:
    """Milliseconds of a build of one small package: first of all, and of another function that shares it."""
    took: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
    for runtime in RUNTIMES:
        for number in range(2):
            name = f"built-{runtime}-{number}"
            execution = running.deploy(name, HELLO, runtime=runtime, requirements="idna==3.7")
            took[runtime].append(running.record(execution)["timings"]["run_ms"])
    for runtime in RUNTIMES:
        for number in range(2):
            running.undeploy(f"built-{runtime}-{number}")
    return took


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--image", default="faaspot-test-base")
    asked = parser.parse_args()
    with platform("root", environ={"FAASPOT_SPOT_DOCKER_IMAGE": asked.image}) as running:
        warmed, started, builds = warm(running, asked.runs), cold(running), built(running)
    medians = {runtime: statistics.median(warmed[runtime]) for runtime in RUNTIMES}
    print("| runtime | warm p50 ms | warm p95 ms | cold start ms (median) | build, build again ms |")
    print("|---|---|---|---|---|")
    for runtime in RUNTIMES:
        p95 = statistics.quantiles(warmed[runtime], n=20)[-1]
        first, again = builds[runtime]
        print(
            f"| {runtime} | {medians[runtime]:.2f} | {p95:.2f} | {statistics.median(started[runtime]):.0f} "
            f"| {first:.0f}, {again:.0f} |"
        )
    print(f"\nwarm p50, docker / sandbox: {medians['docker'] / medians['sandbox']:.2f}")


if __name__ == "__main__":
    main()
