"""What an operator does with a platform: watches it, keeps its data, brings an older release's data along."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import platforms
from tests.platforms import ROOT, SETUPS, Platform, eventually
from tests.unit.api.test_metrics import Figures

CODE = "def main(args, context):\n    return f\"{context['word']} {args['name']}\"\n"
RECORDED = sorted((ROOT / "tests" / "recorded").glob("r*.tar.gz"))


@pytest.fixture(scope="module", params=SETUPS)
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    with platforms.platform(request.param) as running:
        running.deploy("hello", CODE, context={"word": "hi"})
        yield running


def figures(platform: Platform) -> Figures:
    answer = platform.call("GET", "/metrics")
    assert answer.status == 200, answer
    return Figures(answer.text)


def test_the_metrics_tell_of_every_process(platform: Platform) -> None:
    labels = {"kind": "run", "deployment": "hello", "status": "Success", "reason": ""}
    for number in range(20):  # the ends are recorded by two web processes and, for the others, by the recorder
        assert platform.run("hello", {"name": number}).json == f"hi {number}"
    background = [platform.start_run("hello", {"name": number}) for number in range(10)]
    for execution in background:
        assert platform.ended(execution)["status"] == "Success"
    eventually(lambda: figures(platform)("faaspot_ended_total", **labels) == 30, 10, "30 ends are counted")
    found = figures(platform)
    assert found("faaspot_accepted_total", kind="run", deployment="hello") == 30
    assert found("faaspot_run_seconds_count", deployment="hello") == 30
    assert found("faaspot_starts_total", start="warm") + found("faaspot_starts_total", start="cold") == 30
    assert found("faaspot_spots", status="online") == 1
    assert all(found("faaspot_ready", part=part) == 1 for part in ("database", "queue", "recorder", "spots"))
    assert platform.call("GET", "/metrics", token=None).status == 401


def test_it_is_ready_and_the_doctor_finds_it_well(platform: Platform) -> None:
    parts = platform.call("GET", "/readyz", token=None).json["parts"]
    assert parts == dict.fromkeys(("database", "queue", "recorder", "spots"), "ok")
    found = platform.fas("doctor", "--server").stdout
    assert "missing" not in found
    assert "ends are recorded" in found


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_callers_trace_goes_into_the_record_the_function_and_the_logs(platform: Platform) -> None:
    platform.deploy("traced", "import os\ndef main(args, context):\n    return os.environ.get('TRACEPARENT')\n")
    answer = platform.run("traced", headers={"traceparent": TRACE})
    assert answer.json == TRACE
    assert platform.record(answer.headers["Execution-Id"])["traceparent"] == TRACE
    assert platform.run("traced").json is None


def test_the_logs_of_all_processes_show_the_way_of_an_execution() -> None:
    environ = {"FAASPOT_LOG_LEVEL": "info", "FAASPOT_ACCESS_LOG": "1"}
    with platforms.platform(SETUPS[0], environ=environ) as platform:
        platform.deploy("hello", CODE, context={"word": "a secret"})
        answer = platform.run("hello", {"name": "x"}, headers={"traceparent": TRACE})
        uuid = answer.headers["Execution-Id"]
        wanted = {"accepted": "api", "taken": "worker", "acquired": "spot", "ended": "worker", "answered": "api"}

        def told() -> dict[str, str]:
            lines = [line for line in _log(platform) if line.get("execution_id") == uuid]
            assert {line.get("trace_id") for line in lines} <= {TRACE.split("-")[1]}
            return {line["event"]: line["process"].split()[0] for line in lines}

        eventually(lambda: len(told()) == 6, 10, "each process has logged its part")
        assert told()["recorded"] in ("api", "recorder"), "whoever was first"
        assert {event: process for event, process in told().items() if event != "recorded"} == wanted
        kept = [path.read_text() for path in (platform.data / "logs").glob("*.log*")]
        assert not [text for text in kept if "a secret" in text or platform.token in text]


def _log(platform: Platform) -> list[dict[str, Any]]:
    """The lines of all processes but Redis, each of which must be JSON."""
    paths = [path for path in (platform.data / "logs").glob("*.log") if path.name not in ("redis.log", "bytecode.log")]
    return [json.loads(line) for path in paths for line in path.read_text().split("\n")[:-1]]


def records(platform: Platform) -> list[dict[str, Any]]:
    """All records but when their callers were answered, which each web process notes a moment later."""
    found: list[dict[str, Any]] = platform.call("GET", "executions/?include_completed=True").json
    for record in found:
        if record["timings"]["marks"] is not None:
            record["timings"]["marks"].pop("answered", None)
    return found


def test_a_running_platform_is_kept_and_comes_back_elsewhere(platform: Platform) -> None:
    file = platform.home / "kept.tar.gz"
    before = records(platform)
    said = platform.fas("backup", str(file), "--data-dir", str(platform.data)).stderr
    assert "it holds the key that opens every context" in said
    home = Path(tempfile.mkdtemp(prefix="faaspot-e2e-", dir="/tmp"))
    other = Platform(platform.setup, home)
    if platform.setup == "user":
        shutil.chown(home, platform.home.stat().st_uid, platform.home.stat().st_gid)
    try:
        platform.fas("restore", str(file), "--data-dir", str(other.data))
        with other:
            assert other.token == platform.token
            assert records(other) == before
            assert other.run("hello", {"name": "again"}).json == "hi again"
    finally:
        shutil.rmtree(home)


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: path.name.removesuffix(".tar.gz"))
def test_a_data_directory_of_an_older_release_is_taken_over(recorded: Path) -> None:
    """Recorded with the release whose newest tables were those: what it made runs, what it recorded is there."""
    home = Path(tempfile.mkdtemp(prefix="faaspot-e2e-", dir="/tmp"))
    try:
        with tarfile.open(recorded) as tar:
            tar.extractall(home, filter="fully_trusted" if SETUPS[0] == "root" else "data", numeric_owner=True)
        with Platform(SETUPS[0], home) as platform:
            answer = platform.run("greeter", {"name": "new"})
            assert answer.json == {"greeting": "hello new", "secret": "recorded"}
            kept = {(record["deployment"], record["kind"], record["status"]) for record in records(platform)}
            assert {("greeter", "run", "Success"), ("broken", "run", "Failure"), ("broken", "build", "Success")} <= kept
            assert [version["version"] for version in platform.call("GET", "deployments/greeter/versions").json] == [
                2,
                1,
            ]
            assert {token["name"] for token in platform.call("GET", "tokens/").json} == {"admin", "ann"}
            assert "other" in {runtime["name"] for runtime in platform.call("GET", "runtimes/").json}
    finally:
        shutil.rmtree(home)
