"""`fas executions`."""

from __future__ import annotations

from pathlib import Path

import pytest

from fas.command import FAILED, STILL_GOING, USAGE
from tests.unit.cli.conftest import Fas
from tests.unit.sdk.served import write


@pytest.fixture
def endless(fas: Fas, own_folder: Path) -> str:
    write(own_folder, "f.py", "def main(args, context):\n    pass  # never ends\n")
    fas("deployments", "create", "endless", "-f", "f.py")
    return fas("deployments", "run", "endless").stdout.strip()


def test_list_leaves_out_what_has_ended_unless_asked(fas: Fas, endless: str) -> None:
    lines = fas("executions", "list").stdout.splitlines()

    assert lines[0].split() == ["UUID", "NAME", "KIND", "STATUS", "REASON", "CREATED", "OUTPUT"]
    assert [each.split()[0] for each in lines[1:]] == [endless]
    assert len(fas.json("executions", "list", "-i")) == 2
    assert len(fas.json("executions", "list", "--include_completed")) == 2
    assert len(fas.json("executions", "list", "-d", "other")) == 0
    assert [each["kind"] for each in fas.json("executions", "list", "--status", "success")] == ["build"]
    assert len(fas.json("executions", "list", "-i", "--limit", "1")) == 1
    assert "There are more" in fas("executions", "list", "-i", "--limit", "1").stderr
    assert "There are more" not in fas("executions", "list", "-i", "--limit", "2").stderr
    assert "since" in fas("executions", "list", "--since", "yesterday", code=FAILED).stderr


def test_nothing_under_way_says_how_to_see_the_rest(fas: Fas) -> None:
    assert "--include-completed" in fas("executions", "list").stderr
    assert fas("executions", "list", "--reason", "oom").stderr == "", "those have ended"


def test_get_shows_the_record_and_with_wait_the_exit_code_says_how_it_ended(fas: Fas, endless: str) -> None:
    shown = fas("executions", "get", endless).stdout

    assert "status         | Started" in shown
    assert fas.json("executions", "get", endless)["uuid"] == endless
    assert "goes on" in fas("executions", "get", endless, "--timeout", "0", code=STILL_GOING).stderr
    fas("executions", "cancel", endless)
    assert "Cancelled" in fas("executions", "get", endless, "-w", code=FAILED).stdout
    build = fas.json("executions", "list", "--status", "Success")[0]["uuid"]
    fas("executions", "get", build, "--wait")


def test_a_failure_is_shown_with_its_traceback_last(fas: Fas, own_folder: Path) -> None:
    write(own_folder, "f.py", "def main(args, context):\n    return {}['a']\n")
    fas("deployments", "create", "broken", "-f", "f.py")
    uuid = fas("deployments", "run", "broken").stdout.strip()

    lines = fas("executions", "get", uuid).stdout.splitlines()

    assert lines[-1] == "KeyError: 'a'"
    assert any(line.startswith("output ") and "KeyError" in line for line in lines)


def test_several_records_and_unknown_ones(fas: Fas, endless: str) -> None:
    assert endless in fas("executions", "get_bulk", "-u", endless).stdout
    assert "`fas executions list --include-completed`" in fas("executions", "get", "0" * 8, code=FAILED).stderr
    fas("executions", "get_bulk", code=USAGE)


def test_cancel_says_what_became_of_it(fas: Fas, endless: str) -> None:
    assert fas("executions", "cancel", endless).stdout == f"{endless} Cancelled\n"
    assert "ended already" in fas("executions", "cancel", endless, code=FAILED).stderr


def test_logs_whole_followed_and_as_json(fas: Fas, endless: str) -> None:
    assert fas("executions", "logs", endless).stdout.startswith("first line\nsecond line")
    assert fas("executions", "logs", endless, "-f").stdout == "first line\nsecond line\n"
    assert fas.json("executions", "logs", endless)["log"].startswith("first line\n")
    assert "--json cannot" in fas("executions", "logs", endless, "-f", "--json", code=USAGE).stderr


def test_failures_are_run_again_by_id_or_all_that_match(fas: Fas, own_folder: Path) -> None:
    write(own_folder, "f.py", "def main(args, context):\n    return {}['a']\n")
    fas("deployments", "create", "broken", "-f", "f.py")
    uuid = fas("deployments", "run", "broken").stdout.strip()

    again = fas("executions", "rerun", uuid).stdout.strip()
    assert fas.json("executions", "get", again)["reason"] == "error"
    assert fas.json("executions", "rerun", uuid) != [again]
    assert uuid in fas("executions", "list", "--reason", "error", "--rerun").stdout
    assert uuid not in fas("executions", "list", "--reason", "error", "--not-rerun").stdout
    shown = fas("executions", "rerun", "--reason", "error").stdout
    assert again in shown
    assert "Say which" in fas("executions", "rerun", code=USAGE).stderr
    assert "Say which" in fas("executions", "rerun", uuid, "--reason", "error", code=USAGE).stderr


def test_what_cannot_be_run_again_is_told_and_is_a_failure(fas: Fas, own_folder: Path) -> None:
    write(own_folder, "f.py", "def main(args, context):\n    return {}['a']\n")
    fas("deployments", "create", "gone", "-f", "f.py")
    fas("deployments", "run", "gone")
    fas("deployments", "delete", "gone")

    assert "was deleted" in fas("executions", "rerun", "-d", "gone", code=FAILED).stdout


def test_who_is_told_of_an_end_is_shown_with_every_try(fas: Fas, endless: str, own_folder: Path) -> None:
    write(own_folder, "f.py", "def main(args, context):\n    return 1\n")
    fas("deployments", "create", "told", "-f", "f.py", "--callback-url", "https://example.com/all")
    uuid = fas("deployments", "run", "told", "--callback-url", "https://example.com/x").stdout.strip()

    shown = fas("executions", "callback", uuid).stdout
    assert "delivered" in shown
    assert "no answer within 10 s" in shown
    assert fas.json("executions", "callback", endless)["status"] == "waiting"
    assert fas("tokens", "callback-secret").stdout == "whsec_admin\n"
