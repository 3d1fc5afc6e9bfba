"""`fas deployments`: the forms that the documentation of all clients shows, literally."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from faaspot import testing
from faaspot.deployments import Deployments
from faaspot.executions import Executions
from fas.command import FAILED, INTERRUPTED, USAGE
from fas.commands.deployments import SAMPLES
from tests.unit.cli.conftest import Fas
from tests.unit.sdk.served import Served, write

ECHO = "def main(args, context):\n    return args\n"
HELLO = "def main(args, context):\n    return 'Hello ' + args['name']\n"


@pytest.fixture
def hello(fas: Fas, own_folder: Path) -> str:
    write(own_folder, "hello.py", HELLO)
    fas("deployments", "create", "hello", "--file", "hello.py", "--wait")
    return "hello"


@pytest.fixture
def echo(fas: Fas, own_folder: Path) -> str:
    write(own_folder, "echo.py", ECHO)
    fas("deployments", "create", "echo", "--file", "echo.py")
    return "echo"


# ---------------------------------------------------------------- making


def test_create_prints_the_bare_id_and_with_wait_the_builds_line(fas: Fas, own_folder: Path) -> None:
    write(own_folder, "hello.py", HELLO)

    assert len(fas("deployments", "create", "one", "--file", "hello.py").stdout.strip()) == 36
    assert fas("functions", "create", "two", "-f", "hello.py", "-w").stdout == "version 1 is ready\n"
    assert set(fas.json("deployments", "create", "three", "-f", "hello.py")) == {"uuid"}
    assert fas.json("deployments", "create", "four", "-f", "hello.py", "--wait")["status"] == "Success"


def test_files_and_settings_are_sent(fas: Fas, own_folder: Path, platform: Served) -> None:
    write(own_folder, "hello.py", HELLO)
    write(own_folder, "r.txt", "idna\n")
    write(own_folder, "c.txt", "k=v\n")

    fas(
        "deployments", "create", "all", "--file", "hello.py", "-r", "r.txt", "-c", "c.txt", "--timeout", "5",
        "--memory", "64", "--pids", "8", "--tmp", "9", "--network", "none", "--python", "3.12",
        "--runtime", "sandbox", "--sdist", "--description", "ü",
    )  # fmt: skip

    change = platform.services.state.calls[-1][1][1]
    assert (change.code, change.requirements, change.context) == (HELLO, "idna\n", "k=v\n")
    settings = change.settings
    assert (settings.timeout, settings.memory, settings.pids, settings.tmp) == (5.0, 64, 8, 9)
    assert (settings.network, settings.python, settings.runtime) == ("none", "3.12", "sandbox")
    assert (settings.sdist, settings.description) == (True, "ü")


def test_update_sends_only_what_is_said(fas: Fas, echo: str, own_folder: Path, platform: Served) -> None:
    write(own_folder, "two.py", HELLO)

    fas("functions", "update", "echo", "-f", "two.py")
    assert platform.services.state.calls[-1][1][1].code == HELLO
    assert fas("deployments", "update", "echo", "--no-sdist", "-n", "renamed", "-w").stdout == "version 3 is ready\n"
    assert "Nothing to update" in fas("deployments", "update", "renamed", "-w", code=USAGE).stderr


def test_rollback_versions_and_delete(fas: Fas, echo: str, own_folder: Path) -> None:
    write(own_folder, "two.py", HELLO)
    fas("deployments", "update", "echo", "-f", "two.py")

    assert fas("deployments", "rollback", "echo", "1", "--wait").stdout == "version 1 is current\n"
    assert [line.split()[0] for line in fas("deployments", "versions", "echo").stdout.splitlines()] == [
        "VERSION", "*1*", "2",
    ]  # fmt: skip
    assert [each["version"] for each in fas.json("deployments", "versions", "echo")] == [1, 2]
    assert "Hello" in fas("deployments", "versions", "echo", "2").stdout
    assert len(fas("functions", "delete", "echo").stdout.strip()) == 36
    assert "`fas deployments list`" in fas("deployments", "get", "echo", code=FAILED).stderr


# ---------------------------------------------------------------- reading


def test_get_prints_key_and_value_with_the_code_last(fas: Fas, hello: str) -> None:
    lines = fas("deployments", "get", "hello").stdout.splitlines()

    assert [each.split("|")[0].strip() for each in lines if each.startswith("name ")] == ["name"]
    assert lines[-2:] == HELLO.splitlines()
    assert lines[-3].startswith("code")
    assert fas.json("deployments", "get", "hello")["code"] == HELLO


def test_list_is_a_table_on_stdout(fas: Fas, hello: str) -> None:
    lines = fas("deployments", "list").stdout.splitlines()

    assert lines[0].split() == ["NAME", "VERSION", "STATUS", "PYTHON", "REQUIREMENTS", "UPDATED"]
    assert lines[1].split()[:3] == ["hello", "1", "success"]
    assert [each["name"] for each in fas.json("deployments", "list")] == ["hello"]


def test_an_empty_list_says_what_to_do(fas: Fas) -> None:
    result = fas("deployments", "list")

    assert result.stdout.splitlines() == ["NAME  VERSION  STATUS  PYTHON  REQUIREMENTS  UPDATED"]
    assert "fas deployments create" in result.stderr


# ---------------------------------------------------------------- running


def test_run_prints_the_bare_id_and_with_wait_a_text_bare(fas: Fas, hello: str) -> None:
    uuid = fas("deployments", "run", "hello", "--parameters", "name=user1").stdout

    assert uuid == uuid.strip() + "\n"
    assert "Hello user1" in fas("executions", "get", uuid.strip()).stdout
    assert fas("deployments", "run", "hello", "--parameters", "name=user1", "--wait").stdout == "Hello user1\n"
    assert fas.json("deployments", "run", "hello", "-p", "name=x", "-w") == "Hello x"
    assert set(fas.json("deployments", "run", "hello", "-p", "name=x")) == {"uuid"}


@pytest.mark.parametrize(
    "words",
    [
        ("-p", "a=1, b=2"),
        ("-p", "a=1", "-p", "b=2"),
        ("-p", "a=1", "b=2"),
        ("--parameters", "a=1,b=2"),
        ("--args", '{"a": "1"}', "-p", "b=2"),
        ("-p", "a=1", "b=2", "--interval", "5"),
        ("-p", "a=1", "b=2", "-i", "5"),
    ],
)
def test_every_documented_form_of_parameters(fas: Fas, echo: str, words: tuple[str, ...]) -> None:
    assert json.loads(fas("deployments", "run", "echo", *words, "--wait").stdout) == {"a": "1", "b": "2"}
    assert json.loads(fas("functions", "run", *words, "--wait", "echo").stdout) == {"a": "1", "b": "2"}


def test_args_keep_their_types_from_stdin_too(fas: Fas, echo: str) -> None:
    typed = '{"a": 1, "b": [1, 2]}'

    assert json.loads(fas("deployments", "run", "echo", "--args", typed, "--wait").stdout) == json.loads(typed)
    assert json.loads(fas("deployments", "run", "echo", "--args", "-", "-w", stdin=typed).stdout) == json.loads(typed)
    assert "is not JSON" in fas("deployments", "run", "echo", "--args", "{", code=USAGE).stderr


def test_a_failed_run_shows_type_message_traceback_and_where_its_log_is(fas: Fas, hello: str) -> None:
    result = fas("deployments", "run", "hello", "--wait", code=FAILED)

    assert result.stdout == ""
    assert result.stderr.startswith("Error: KeyError: 'name'\nTraceback")
    assert "`fas executions logs " in result.stderr
    problem = json.loads(fas("deployments", "run", "hello", "--wait", "--json", code=FAILED).stderr)
    assert (problem["type"], problem["error_code"], problem["status"]) == ("KeyError", "error", 500)
    assert len(problem["execution_id"]) == 36


def test_run_bulk_prints_one_line_each_in_order(fas: Fas, hello: str) -> None:
    ids = fas("functions", "run_bulk", "hello", "-p", "name=a, x=1", "-p", "name=b").stdout.split()

    assert [each["output"] for each in fas.json("executions", "get-bulk", "-u", ids[0], "-u", ids[1])] == [
        "Hello a",
        "Hello b",
    ]
    waited = fas("deployments", "run-bulk", "hello", "--args", '[{"name": "c"}]', "-p", "name=d", "--wait")
    assert waited.stdout == "Hello c\nHello d\n"
    assert "Nothing to run" in fas("deployments", "run-bulk", "hello", code=USAGE).stderr


def test_a_bulk_with_a_failure_shows_every_result_in_order_and_fails(fas: Fas, hello: str) -> None:
    words = ("deployments", "run-bulk", "hello", "-p", "name=a", "-p", "x=1", "-p", "name=c", "--wait")

    result = fas(*words, code=FAILED)

    first, second, third = result.stdout.splitlines()
    assert (first, third) == ("Hello a", "Hello c")
    assert re.fullmatch(r"Error: KeyError: 'name' \(execution [0-9a-f-]{36}\)", second)
    assert result.stderr == "Error: 1 of 3 runs did not succeed.\n"
    result = fas(*words, "--json", code=FAILED)
    found = json.loads(result.stdout)
    assert [set(each) for each in found] == [{"uuid", "status", "output", "error"}] * 3
    assert [each["status"] for each in found] == ["Success", "Failure", "Success"]
    assert (found[0]["output"], found[1]["error"]["type"]) == ("Hello a", "KeyError")
    assert json.loads(result.stderr) == {"message": "1 of 3 runs did not succeed."}


def test_an_interrupted_wait_for_a_bulk_names_what_it_did_not_wait_for(
    fas: Fas, hello: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Executions, "wait_bulk", interrupt)

    result = fas("deployments", "run-bulk", "hello", "-p", "name=a", "-p", "name=b", "--wait", code=INTERRUPTED)

    assert len(re.findall(r"[0-9a-f-]{36}", result.stderr)) == 2


def test_ctrl_c_names_the_run_and_how_to_get_or_cancel_it(
    fas: Fas, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(own_folder, "f.py", "def main(args, context):\n    pass  # never ends\n")
    fas("deployments", "create", "endless", "-f", "f.py")
    run, other = (fas("deployments", "run", "endless", "-p", f"n={n}").stdout.strip() for n in (1, 2))
    monkeypatch.setattr(Deployments, "run", interrupt)

    said = fas("deployments", "run", "endless", "-p", "n=1", "--wait", code=INTERRUPTED).stderr

    assert f"`fas executions get {run} --wait`" in said
    assert f"`fas executions cancel {run}`" in said
    assert other not in said
    told = json.loads(fas("deployments", "run", "endless", "-p", "n=2", "--wait", "--json", code=INTERRUPTED).stderr)
    assert told["execution_id"] == other
    assert "executions list" in fas("deployments", "run", "endless", "--wait", code=INTERRUPTED).stderr


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_written_and_the_platform_takes_it(fas: Fas, own_folder: Path, name: str) -> None:
    flag = f"--{name.replace('_', '-')}"

    assert fas("deployments", "samples", flag).stdout == f"{name}.py\n"

    assert testing.load(own_folder / f"{name}.py")
    again = fas("functions", "samples", flag, code=FAILED)
    assert f"File with name `{name}.py` already exists." in again.stderr
    fas("deployments", "create", name, "--file", f"{name}.py", "--wait")


def test_the_samples_do_what_they_say(fas: Fas, own_folder: Path) -> None:
    for flag in ("--hello", "--fib", "--sleep"):
        fas("deployments", "samples", flag)

    assert testing.run("hello.py", {"name": "user1"}) == "Hello user1"
    assert testing.run("fib.py", {"n": "30"}) == 832040
    assert testing.run("sleep.py", {"seconds": "0"}) == "slept 0 seconds"


def test_no_sample_is_a_usage_error(fas: Fas) -> None:
    assert "No action requested, need to select some sample.." in fas("deployments", "samples", code=USAGE).stderr


def test_a_run_may_have_a_key_and_a_maximum_age(fas: Fas, own_folder: Path) -> None:
    write(own_folder, "f.py", "def main(args, context):\n    return args\n")
    fas("deployments", "create", "keyed", "-f", "f.py")
    first = fas("deployments", "run", "keyed", "--idempotency-key", "k", "--max-age", "9").stdout
    assert fas("deployments", "run", "keyed", "--idempotency-key", "k", "--max-age", "9").stdout == first
    assert "another request" in fas("deployments", "run", "keyed", "--idempotency-key", "k", code=FAILED).stderr
