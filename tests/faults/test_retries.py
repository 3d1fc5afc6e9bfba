"""Which ends are followed by another attempt, over a real platform."""

from __future__ import annotations

import pytest

from tests.platforms import SETUPS, eventually, platform

SLEEPS = "import time\ndef main(args, context):\n    time.sleep(args['s'])\n    return 'slept'\n"
FLAKY = """
import os

def main(args, context):
    attempt = int(os.environ["FAASPOT_ATTEMPT"])
    print("attempt", attempt)
    if attempt < args["good"]:
        raise RuntimeError(f"not at attempt {attempt}")
    return attempt
"""


@pytest.mark.parametrize("setup", SETUPS[:1])
def test_retries_over_the_whole_platform(setup: str) -> None:
    with platform(setup, environ={"FAASPOT_GRACE": "0.5"}) as running:
        running.deploy("flaky", FLAKY, retries=2, retry_on=["error"])
        assert running.run("flaky", {"good": 3}).json == 3
        worst = running.run("flaky", {"good": 9})
        assert (worst.status, worst.json["error_code"]) == (500, "error")
        assert running.record(worst.headers["Execution-Id"])["attempt"] == 3

        running.deploy("paused", FLAKY, retries=1, retry_on=["error"], retry_backoff=0.5)
        record = running.ended(running.start_run("paused", {"good": 2}), 20)
        assert (record["status"], record["attempt"]) == ("Success", 2)

        running.deploy("once", SLEEPS, retries=0)
        running.deploy("again", SLEEPS)
        once, again = running.start_run("once", {"s": 60}), running.start_run("again", {"s": 2})
        for execution in (once, again):
            eventually(lambda uuid=execution: running.record(uuid)["status"] == "Started", 20)
        running.restart()
        record = running.ended(once, 5)
        assert (record["status"], record["reason"], record["attempt"]) == ("Failure", "interrupted", 1)
        record = running.ended(again, 20)
        assert (record["status"], record["output"], record["attempt"]) == ("Success", "slept", 2)
