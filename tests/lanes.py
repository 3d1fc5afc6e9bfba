"""All tests in three lanes side by side, as `make test` has them: `python -m tests.lanes`; with arguments plain pytest.

Two lanes have what starts whole platforms, the third all the rest. Each mostly waits, so together they take hardly
longer than the longest. A test that looks at the whole machine is marked `alone`, and nothing runs beside it.

In CI the few tests that failed run once more, alone, as CPython's own suite does it (`-m test --rerun`): on a shared,
noisy machine a test can lose a race that no user would. What passes then is named UNSTABLE at the end, its first
failure stands above; more than `FEW` failures, or one that fails again, fail the run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PLATFORMS = (("tests/faults", "tests/hostile"), ("tests/e2e",))
"""The lanes of whole platforms. The first one speaks while it runs, the others when all have ended."""
REST = ("tests", *(f"--ignore={path}" for paths in PLATFORMS for path in paths))
FEW = 3
PYTEST = (sys.executable, "-m", "pytest")


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code of the whole: 0 where every test passed."""
    if arguments:
        return subprocess.call([*PYTEST, *arguments])
    with tempfile.TemporaryDirectory(prefix="faaspot-tests-lanes-") as name:
        codes, tests = side_by_side((*PLATFORMS, REST), Path(name))
    return once_more(codes, tests)


def side_by_side(lanes: Sequence[Sequence[str]], home: Path) -> tuple[list[int], list[str]]:
    """The exit code of each lane, and the tests that failed. The output of all but the first comes at the end."""
    logs = [home / f"{number}.log" for number in range(1, len(lanes))]
    caches = [home / f"{number}.cache" for number in range(len(lanes))]
    commands = [[*PYTEST, *paths, "-o", f"cache_dir={cache}"] for paths, cache in zip(lanes, caches, strict=True)]
    beside = []
    for command, log in zip(commands[1:], logs, strict=True):
        with log.open("wb") as file:
            beside.append(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT))
    try:
        codes = [subprocess.call(commands[0]), *(lane.wait() for lane in beside)]
    finally:
        for lane, log, paths in zip(beside, logs, lanes[1:], strict=True):
            lane.kill()
            print(f"\n{f' beside it: {paths[0]} ':=^100}", flush=True)
            sys.stdout.buffer.write(log.read_bytes())
            sys.stdout.flush()
    return codes, [test for cache in caches for test in failed(cache)]


def failed(cache: Path) -> list[str]:
    """The tests that pytest noted as failed in this cache."""
    noted = cache / "v/cache/lastfailed"
    return list(json.loads(noted.read_text())) if noted.exists() else []


def once_more(codes: Sequence[int], tests: Sequence[str]) -> int:
    """What the lanes' exit codes come to, once the few tests that failed have had their second try in CI."""
    worst = max(codes, key=abs)
    only_tests = set(codes) <= {0, 1}  # 1: tests failed, and nothing else went wrong
    if not (os.environ.get("CI") and only_tests and 0 < len(tests) <= FEW):
        return worst
    print(f"\n{' once more, alone ':=^100}", flush=True)
    code = subprocess.call([*PYTEST, "-p", "no:cacheprovider", *tests])
    if code == 0:
        print("".join(f"UNSTABLE: failed, then passed alone: {test}\n" for test in tests), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
