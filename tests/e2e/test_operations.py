"""What an operator does with a platform: watches it, keeps its data, brings an older release's data along."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

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
    assert found("faaspot_build_seconds_count", status="Success") == 1
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


def test_a_running_platform_is_kept_and_comes_back_elsewhere(platform: Platform) -> None:
    file = platform.home / "kept.tar.gz"
    before = platform.call("GET", "executions/?include_completed=True").json
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
            assert other.call("GET", "executions/?include_completed=True").json == before
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
            records = platform.call("GET", "executions/?include_completed=True").json
            kept = {(record["deployment"], record["kind"], record["status"]) for record in records}
            assert {("greeter", "run", "Success"), ("broken", "run", "Failure"), ("broken", "build", "Success")} <= kept
            assert [version["version"] for version in platform.call("GET", "deployments/greeter/versions").json] == [
                2,
                1,
            ]
            assert {token["name"] for token in platform.call("GET", "tokens/").json} == {"admin", "ann"}
            assert "other" in {runtime["name"] for runtime in platform.call("GET", "runtimes/").json}
    finally:
        shutil.rmtree(home)
