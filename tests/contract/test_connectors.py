"""The laws of a connector and of its sandboxes, held by every runtime of ours: what a function sees is the same."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faaspot_runner.connectors import CONNECTORS
from faaspot_runner.connectors.base import Connector, DeploymentConfig, Request
from faaspot_runner.contract import Limits, SandboxSpec
from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox.spec import Material
from tests import docker_engine
from tests.unit.runner.sandbox_driver import interpreter
from tests.unit.runner.sandboxes import GRADES, Stage, eventually

SETUPS = [("sandbox", grade) for grade in GRADES] + [("process", grade) for grade in GRADES] + [("docker", "root")]
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else os.path.realpath(sys.executable)


@pytest.fixture(scope="module", params=SETUPS, ids="-".join)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    runtime, grade = request.param
    if runtime == "docker":
        docker_engine.needed()
    stage = Stage(grade, runtime)
    yield stage
    stage.close()


def test_main_gets_args_and_context_and_its_value_comes_back(stage: Stage) -> None:
    code = "def main(args, context):\n    return {'args': args, 'context': context, 'text': 'ä€𝄞'}"
    assert stage.output(code, args={"a": [1, None, "ü"]}, context={"KEY": "v"}) == {
        "args": {"a": [1, None, "ü"]},
        "context": {"KEY": "v"},
        "text": "ä€𝄞",
    }


def test_its_environment_is_the_promised_one(stage: Stage) -> None:
    names = stage.output("import os\ndef main(args, context):\n    return sorted(os.environ)")
    assert names == ["FAASPOT_ATTEMPT", "FAASPOT_EXECUTION_ID", "HOME", "LANG", "PATH", "TMPDIR", "TZ"]


def test_every_run_is_a_fresh_process_of_one_import(stage: Stage) -> None:
    code = """
    import time
    born, count = time.monotonic(), 0
    def main(args, context):
        global count
        count += 1
        return [born, count]
    """
    outcomes = stage.runs(code, count=3)["outcomes"]
    seen = [json.loads(outcome["output"]) for outcome in outcomes]
    assert [count for _, count in seen] == [1, 1, 1]
    assert len({born for born, _ in seen}) == 1


def test_what_is_printed_is_the_log_in_order(stage: Stage) -> None:
    code = """
    import sys
    print("while importing")
    def main(args, context):
        print("out")
        print("err", file=sys.stderr)
        print("unfinished", end="")
    """
    answer = stage.runs(code)
    assert answer["import_log"] == "while importing\n"
    assert answer["outcomes"][0]["log"] == "out\nerr\nunfinished"


def test_the_log_tells_of_threads_that_no_run_will_have(stage: Stage) -> None:
    code = """
    import threading
    threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()
    def main(args, context):
        return [thread.name for thread in threading.enumerate()]
    """
    answer = stage.runs(code)
    assert "left threads running (poller)" in answer["import_log"]
    assert json.loads(answer["outcomes"][0]["output"]) == ["MainThread"]


def test_a_failure_has_type_message_and_the_users_lines(stage: Stage) -> None:
    error = stage.run("def main(args, context):\n    raise KeyError('gone')")["error"]
    assert (error["type"], error["message"]) == ("KeyError", "'gone'")
    first, second, *_ = error["traceback"].splitlines()
    assert first == "Traceback (most recent call last):"
    assert second.endswith('main.py", line 2, in main')


def test_a_module_that_does_not_import_gives_no_sandbox(stage: Stage) -> None:
    failed = stage.runs("print('so far')\n1 / 0")["failed"]
    assert (failed["reason"], failed["type"], failed["log"]) == ("error", "ZeroDivisionError", "so far\n")
    assert 'main.py", line 2, in <module>' in failed["traceback"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [("import os; os._exit(0)", "error"), ("return {1, 2}", "unserialisable"), ("return 'x' * 2000", "limit")],
)
def test_an_end_without_a_value_has_its_reason(stage: Stage, body: str, reason: str) -> None:
    outcome = stage.run(f"def main(args, context):\n    {body}", result_limit=1000)
    assert (outcome["status"], outcome["reason"], outcome["output"]) == ("Failure", reason, None)


def test_a_deadline_and_a_cancel_kill(stage: Stage) -> None:
    code = "def main(args, context):\n    while True: pass"
    late = stage.runs(code, limits={"timeout": 0.3})
    assert late["outcomes"][0]["reason"] == "timeout"
    assert late["settled"]
    gone = stage.runs(code, cancel=True)
    assert gone["outcomes"][0]["status"] == "Cancelled"
    assert gone["settled"]


def test_children_of_a_run_die_with_it(stage: Stage) -> None:
    """In the process runtime only those that stay in its process group."""
    code = """
    import os, time
    def main(args, context):
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, b"%d" % os.getpid())
            time.sleep(3600)
        return os.read(read, 20).decode()
    """
    answer = stage.runs(code)
    assert answer["settled"]
    assert answer["outcomes"][0]["status"] == "Success"
    if stage.runtime == "process":  # a sandbox's pids mean nothing outside
        pid = json.loads(answer["outcomes"][0]["output"])
        assert eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_runs_in_one_sandbox_go_on_at_the_same_time(stage: Stage) -> None:
    code = "import time\ndef main(args, context):\n    time.sleep(0.3)\n    return 1"
    started = time.monotonic()
    answer = stage.runs(code, count=5, together=True)
    assert [outcome["output"] for outcome in answer["outcomes"]] == ["1"] * 5
    assert time.monotonic() - started < 1.4


def connector(runtime: str, directory: Path) -> Connector:
    config = {}
    if runtime == "docker":
        docker_engine.needed()
        config = docker_engine.connector_config(directory)
    return CONNECTORS[runtime](DeploymentConfig(name=runtime, type=runtime, config=config))


def spec(runtime: str) -> SandboxSpec:
    return SandboxSpec(
        version_id="v", deployment="d", version=1, runtime=runtime, python="3", code="0", limits=Limits(timeout=5)
    )


@pytest.mark.parametrize("runtime", CONNECTORS)
def test_run_is_one_execution_from_nothing_to_its_end(runtime: str, tmp_path: Path) -> None:
    async def story() -> None:
        one = connector(runtime, tmp_path)
        material = Material(code=b"def main(args, context): return args['n'] + 1", python=interpreter(PYTHON))
        await one.deploy(False)
        try:
            outcome = await one.run(Request(execution_id="e", spec=spec(runtime), material=material, args='{"n": 1}'))
            assert (outcome.status, outcome.output) == ("Success", "2")
        finally:
            await one.undeploy(False)

    asyncio.run(story())


@pytest.mark.parametrize("runtime", CONNECTORS)
def test_undeploy_stops_every_sandbox_and_open_needs_a_deploy(runtime: str, tmp_path: Path) -> None:
    async def story() -> None:
        one = connector(runtime, tmp_path)
        material = Material(code=b"def main(args, context): pass", python=interpreter(PYTHON))
        with pytest.raises(SandboxError, match="not deployed"):
            await one.open(spec(runtime), material, time.monotonic() + 5)
        await one.deploy(False)
        sandboxes = [await one.open(spec(runtime), material, time.monotonic() + 10) for _ in range(2)]
        assert all(sandbox.alive() for sandbox in sandboxes)
        await one.undeploy(False)
        assert not any(sandbox.alive() for sandbox in sandboxes)
        await sandboxes[0].stop()

    asyncio.run(story())


@pytest.mark.parametrize("runtime", CONNECTORS)
def test_a_caller_that_is_cancelled_leaves_no_sandbox(runtime: str, tmp_path: Path) -> None:
    async def story() -> None:
        one = connector(runtime, tmp_path)
        await one.deploy(False)
        material = Material(code=b"import time; time.sleep(60)", python=interpreter(PYTHON))
        opening = asyncio.ensure_future(one.open(spec(runtime), material, time.monotonic() + 60))
        await asyncio.sleep(0.3)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        if runtime == "docker":
            # The engine cannot be stopped in the middle of a question: what was being asked of it is taken back.
            assert eventually(lambda: docker_engine.objects() == [])
        await one.undeploy(False)

    asyncio.run(story())
