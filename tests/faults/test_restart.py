"""`fas restart` under load: everything is replaced, nobody is let down but by 503 with Retry-After, every run ends once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests import platforms
from tests.faults.load import CODE, Load
from tests.platforms import SETUPS, Platform, descendants, eventually

PARTS = {
    "web": ("faaspot_api", "gunicorn"),
    "recorder": ("faaspot_api", "recorder"),
    "spot": ("faaspot_runner", "spot"),
}


@pytest.fixture(scope="module", params=SETUPS[:1])
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    with platforms.platform(request.param, environ={"FAASPOT_GRACE": "5"}) as running:
        running.deploy("work", CODE)
        yield running


def test_all_is_replaced_under_load_and_nobody_is_let_down(platform: Platform) -> None:
    before = {part: set(platform.processes(*words)) for part, words in PARTS.items()}
    with Load(platform) as load:
        long = [platform.start_run("work", {"n": n, "s": 4}) for n in range(4)]
        eventually(lambda: all(platform.record(uuid)["status"] == "Started" for uuid in long), 20, "they run")
        said = platform.fas("restart", "--data-dir", str(platform.data)).stderr
        assert "web processes, recorder and 1 spot are new" in said
        more = load.answers["200"]
        eventually(lambda: load.answers["200"] > more + 50, 30, "the load goes on")
    assert load.wrong == []
    assert set(load.answers) <= {"200", "503"}
    after = {part: set(platform.processes(*words)) for part, words in PARTS.items()}
    for part, pids in after.items():
        assert pids, part
        assert not pids & before[part], f"{part} was not replaced"
    for uuid in [*long, *load.accepted]:
        record = platform.ended(uuid)
        assert record["status"] == "Success", record
    assert {platform.record(uuid)["attempt"] for uuid in long} == {1}, "what was in flight ended where it ran"
    spots = platform.call("GET", "spots/").json
    assert [spot["ip"] for spot in spots] == ["127.0.0.2"]


def test_who_waits_longer_than_the_grace_is_told_and_the_run_goes_on(platform: Platform) -> None:
    answers = []
    caller = threading.Thread(target=lambda: answers.append(platform.run("work", {"n": 7, "s": 12})))
    caller.start()
    eventually(lambda: _running(platform), 20, "it runs")
    platform.fas("restart", "--data-dir", str(platform.data))
    caller.join(60)
    (answer,) = answers
    assert (answer.status, answer.json["error_code"]) == (503, "restarting")
    assert answer.headers["Retry-After"] == "1"
    record = platform.ended(answer.headers["Execution-Id"])
    assert (record["status"], record["output"]) == ("Success", 7)


def test_no_platform_is_an_error_that_says_so(platform: Platform) -> None:
    done = platform.fas("restart", "--data-dir", str(platform.home / "nowhere"), check=False)
    assert done.returncode == 2
    assert "no platform runs on" in done.stderr
    assert platform.process is not None
    assert descendants(platform.process.pid)


def _running(platform: Platform) -> bool:
    records = platform.call("GET", "executions/").json
    return any(record["status"] == "Started" for record in records)
