"""Counts for Prometheus: bounded labels, one sum over processes, nothing lost with a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from faaspot_api.metrics import DEPLOYMENTS, FILE_BYTES, OTHER, Metrics
from faaspot_runner.contract import Timings

NOTHING = CollectorRegistry()
COUNTER = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from faaspot_api.metrics import Metrics
from faaspot_runner.contract import Timings
metrics = Metrics.shared(Path(sys.argv[1]))
for line in sys.stdin:
    if line == "text\\n":
        sys.stdout.write(metrics.text(CollectorRegistry()).decode() + "END\\n")
    else:
        metrics.ended("run", line.strip(), "Success", None, Timings(queue_ms=1.0, run_ms=5.0, cold=False))
        sys.stdout.write("END\\n")
    sys.stdout.flush()
"""

FULL = """
import sys
from pathlib import Path
from typing import get_args
from faaspot_api.metrics import DEPLOYMENTS, Metrics
from faaspot_runner.contract import Reason, Timings
metrics = Metrics.shared(Path(sys.argv[1]))
for number in range(DEPLOYMENTS + 5):
    name = f"{number:03}".ljust(63, "x")
    for kind in ("run", "build"):
        metrics.accepted(kind, name)
        for reason in (None, *get_args(Reason)):
            status = "Failure" if reason else "Success"
            metrics.ended(kind, name, status, reason, Timings(queue_ms=1.0, run_ms=1.0, start_ms=1.0, cold=True))
for route in range(80):  # as many as there are, and some
    for status in (200, 201, 202, 400, 401, 403, 404, 409, 413, 422, 429, 500, 503, 504):
        metrics.answered("DELETE", f"deployments.a_view_of_that_length_{route:03}", status, 1.0)
"""


class Process:
    """A process that counts."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-c", COUNTER, str(directory)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, word: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return "".join(iter(self.process.stdout.readline, "END\n"))

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Figures:
    """The values in a text of Prometheus' format, by name and labels."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        self.samples = [sample for family in families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        found = [sample.value for sample in self.samples if sample.name == name and sample.labels == labels]
        assert len(found) == 1, (name, labels, found)
        return found[0]

    def labels(self, name: str, label: str) -> set[str]:
        """All values of a label."""
        return {sample.labels[label] for sample in self.samples if sample.name == name}


def ended(process: Process) -> float:
    """Successful runs of `hello`, by what the process tells."""
    told = Figures(process.say("text"))
    return told("faaspot_ended_total", kind="run", deployment="hello", status="Success", reason="")


def of(metrics: Metrics) -> Figures:
    return Figures(metrics.text(NOTHING).decode())


def test_ends_are_counted_by_deployment_and_reason_and_timed() -> None:
    metrics = Metrics()
    metrics.accepted("run", "hello", 3)
    metrics.ended("run", "hello", "Success", None, Timings(queue_ms=2.5, start_ms=4.0, run_ms=70.0, cold=False))
    metrics.ended("run", "hello", "Failure", "oom", Timings(queue_ms=1.0, import_ms=90.0, run_ms=20.0, cold=True))
    metrics.ended("build", "hello", "Success", None, Timings(run_ms=2000.0))
    found = of(metrics)
    assert found("faaspot_accepted_total", kind="run", deployment="hello") == 3
    assert found("faaspot_ended_total", kind="run", deployment="hello", status="Success", reason="") == 1
    assert found("faaspot_ended_total", kind="run", deployment="hello", status="Failure", reason="oom") == 1
    assert found("faaspot_starts_total", start="warm") == found("faaspot_starts_total", start="cold") == 1
    assert found("faaspot_run_seconds_sum", deployment="hello") == pytest.approx(0.09)
    assert found("faaspot_queue_seconds_count", kind="run") == 2
    assert found("faaspot_queue_seconds_bucket", kind="run", le="0.002") == 1
    assert found("faaspot_import_seconds_count") == 1
    assert found("faaspot_build_seconds_sum", status="Success") == 2


def test_what_people_name_makes_no_endless_list() -> None:
    metrics = Metrics()
    for number in range(3 * DEPLOYMENTS):
        metrics.ended("run", f"d{number}", "Success", None, Timings(run_ms=1.0))
    assert of(metrics).labels("faaspot_run_seconds_count", "deployment") == {OTHER} | {
        f"d{number}" for number in range(DEPLOYMENTS)
    }
    assert of(metrics)("faaspot_run_seconds_count", deployment=OTHER) == 2 * DEPLOYMENTS


def test_whichever_process_is_asked_tells_of_all_and_a_dead_ones_counts_stay(tmp_path: Path) -> None:
    first, second = Process(tmp_path), Process(tmp_path)
    try:
        for _ in range(3):
            first.say("hello")
        second.say("hello")
        assert ended(first) == ended(second) == 4
        first.kill()
        assert ended(second) == 4
        third = Process(tmp_path)
        third.say("hello")
        assert ended(second) == 5
        third.kill()
    finally:
        first.kill()
        second.kill()
    assert len(list(tmp_path.glob("*.db"))) == 4, "a new process takes up a dead one's files"


def test_the_files_of_a_process_are_whole_on_the_disk_and_hold_all_that_can_be_counted(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], check=True, timeout=60)
    for path in tmp_path.glob("*.db"):
        size, status = FILE_BYTES[path.name.partition("_")[0]], path.stat()
        assert status.st_size == size, "what a file grows by is a hole"
        assert status.st_blocks * 512 >= size, "writing into a hole of a full disk kills"


def test_the_list_of_names_is_bounded_over_a_process_and_those_after_it(tmp_path: Path) -> None:
    for letter in "ab":
        process = Process(tmp_path)
        try:
            for number in range(DEPLOYMENTS - 10):
                process.say(f"{letter}{number}")
            names = Figures(process.say("text")).labels("faaspot_run_seconds_count", "deployment")
        finally:
            process.kill()
    assert OTHER in names
    assert len(names - {OTHER}) == DEPLOYMENTS
