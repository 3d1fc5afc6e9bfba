"""All tests in two lanes side by side, as `make test` runs them: `python -m tests.lanes`; with arguments, plain pytest.

The first lane has what starts whole platforms, the second all the rest. Both mostly wait, so together they take hardly
longer than the first. A test that looks at the whole machine is marked `alone`, and nothing runs beside it.

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

PLATFORMS = ("tests/e2e", "tests/faults", "tests/hostile")
"""The first lane; the second has all the rest."""
FEW = 3
PYTEST = (sys.executable, "-m", "pytest")


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code of the whole: 0 where every test passed."""
    if arguments:
        return subprocess.call([*PYTEST, *arguments])
    with tempfile.TemporaryDirectory(prefix="faaspot-tests-lanes-") as name:
        caches = [Path(name, "first"), Path(name, "second")]
        options = [["-o", f"cache_dir={cache}"] for cache in caches]
        log = Path(name, "second.log")
        rest = ["tests", *(f"--ignore={path}" for path in PLATFORMS)]
        with log.open("wb") as file:
            beside = subprocess.Popen([*PYTEST, *rest, *options[1]], stdout=file, stderr=subprocess.STDOUT)
        try:
            codes = [subprocess.call([*PYTEST, *PLATFORMS, *options[0]]), beside.wait()]
        finally:
            beside.kill()
            print(f"\n{' the second lane ':=^100}", flush=True)
            sys.stdout.buffer.write(log.read_bytes())
            sys.stdout.flush()
        return once_more(codes, [test for cache in caches for test in failed(cache)])


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
