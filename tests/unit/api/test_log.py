"""Every line of a process' log is JSON, whoever wrote it and whatever it holds."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

API = """
import logging, structlog
from faaspot_api import log
log.configure("info", "api")
structlog.contextvars.bind_contextvars(trace_id="t1")
structlog.get_logger("x").info("own", text="two\\nlines \\u2028 {odd}")
structlog.get_logger("x").debug("not shown")
try:
    raise ValueError("a defect")
except ValueError:
    structlog.get_logger("x").exception("own defect")
    logging.getLogger("gunicorn.error").exception("a library's %s", "defect")
logging.getLogger("lib").warning("with extras", extra={"execution_id": "e1"})
logging.getLogger("lib").debug("not shown")
"""
RUNNER = """
import logging
from faaspot_runner import log
from faaspot_runner.contract import RunRequest, SandboxSpec
log.configure("info", "worker w1")
spec = SandboxSpec(version_id="v", deployment="d", version=1, runtime="sandbox", python="3.11", code="c")
trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
with log.about(RunRequest(execution_id="e1", attempt=2, token="secret", sandbox=spec, traceparent=trace)):
    logging.getLogger("a").info("taken")
logging.getLogger("a").info("after")
"""


def lines(program: str) -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.split("\n")[:-1]]


def test_our_own_lines_and_those_of_libraries_have_one_form() -> None:
    own, defect, library, extras = lines(API)
    for line in (own, defect, library, extras):
        assert {"timestamp", "level", "event", "process", "trace_id"} <= set(line)
        assert (line["process"], line["trace_id"]) == ("api", "t1")
    assert own["text"] == "two\nlines \u2028 {odd}"
    assert "ValueError: a defect" in defect["exception"]
    assert "ValueError: a defect" in library["exception"]
    assert (library["event"], library["logger"], library["level"]) == ("a library's defect", "gunicorn.error", "error")
    assert extras["execution_id"] == "e1"


def test_a_worker_says_which_execution_it_is_at() -> None:
    taken, after = lines(RUNNER)
    assert (taken["execution_id"], taken["attempt"]) == ("e1", 2)
    assert taken["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert taken["process"] == "worker w1"
    assert "secret" not in json.dumps(taken)
    assert not {"execution_id", "attempt", "trace_id"} & set(after)


@pytest.mark.parametrize("level", ["debug", "warning"])
def test_the_level_holds_for_both(level: str) -> None:
    for program in (API, RUNNER):
        shown = {line["event"] for line in lines(program.replace('"info"', f'"{level}"'))}
        assert ("not shown" in shown) == (level == "debug" and program is API)
        assert ("taken" in shown) == (level == "debug" and program is RUNNER)
