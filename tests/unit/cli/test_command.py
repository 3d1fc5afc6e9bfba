"""Common options, and the way from an error to a message and an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from faaspot import Faaspot, Profiles
from fas.command import FAILED, INTERRUPTED, STILL_GOING, UNREACHED, USAGE
from tests.unit.cli.conftest import Fas
from tests.unit.sdk.served import Served, unused_port, write

MAIN = "def main(args, context):\n"


def test_without_a_profile_it_says_how_to_make_one(bare: Fas) -> None:
    result = bare("deployments", "list", code=UNREACHED)

    assert result.stdout == ""
    assert result.stderr.startswith("Error: FaaSpot profile was not set. Create a profile using profiles command.\n")
    assert "fas profiles create" in result.stderr


def test_a_platform_that_is_not_there_says_so(bare: Fas) -> None:
    Profiles().create("gone", host=f"http://127.0.0.1:{unused_port()}", token="t")

    result = bare("deployments", "delete", "x", code=UNREACHED)

    assert "Failed to connect to FaaSpot server." in result.stderr
    assert "fas up" in result.stderr


def test_a_missing_file_is_named_before_anything_is_asked(fas: Fas, platform: Served) -> None:
    result = fas("deployments", "create", "x", "--file", "none.py", code=USAGE)

    assert "Missing file in path: none.py" in result.stderr
    assert "Is a directory" in fas("deployments", "create", "x", "--file", ".", code=USAGE).stderr
    assert platform.services.state.calls == []


def test_a_bad_token_says_where_to_set_one(platform: Served, bare: Fas) -> None:
    Profiles().create("bad", host=platform.url, token="wrong")

    assert "`fas profiles update bad --token TOKEN`" in bare("spots", "list", code=FAILED).stderr


def test_the_profile_option_and_the_environment_choose_the_platform(
    platform: Served, bare: Fas, monkeypatch: pytest.MonkeyPatch
) -> None:
    Profiles().create("gone", host="http://127.0.0.1:1", token="t")
    Profiles().create("here", host=platform.url, token=platform.token)

    assert bare.json("deployments", "list", "--profile", "here") == []
    monkeypatch.setenv("FAASPOT_PROFILE", "here")
    assert bare.json("deployments", "list") == []
    monkeypatch.setenv("FAASPOT_PROFILE", "gone")
    monkeypatch.setenv("FAASPOT_URL", platform.url)
    monkeypatch.setenv("FAASPOT_TOKEN", platform.token)
    assert bare.json("deployments", "list") == []


def test_errors_are_one_line_of_json_for_a_program(fas: Fas) -> None:
    result = fas("deployments", "get", "nothing", "--json", code=FAILED)

    assert result.stdout == ""
    problem = json.loads(result.stderr)
    assert (problem["status"], problem["error_code"]) == (404, "not_found")
    assert problem["hint"] == "`fas deployments list` shows what there is."


def test_several_bad_fields_are_listed(fas: Fas, own_folder: Path) -> None:
    write(own_folder, "f.py", MAIN + "    return 1\n")

    result = fas("deployments", "create", "no name", "-f", "f.py", "--retry-on", "surprise", code=FAILED)

    assert "The platform cannot take this:\n" in result.stderr
    assert "  retry_on" in result.stderr
    assert "  name: " in result.stderr


def test_a_wait_that_ends_first_has_an_exit_code_of_its_own(fas: Fas, own_folder: Path) -> None:
    write(own_folder, "f.py", MAIN + "    pass  # never ends\n")
    fas("deployments", "create", "slow", "-f", "f.py")

    result = fas("deployments", "run", "slow", "--timeout", "1", code=STILL_GOING)

    assert "--wait` waits on" in result.stderr


def test_verbose_says_what_is_asked_and_never_the_token(fas: Fas, platform: Served) -> None:
    quiet, one, two = (fas("spots", "list", *words).stderr for words in ([], ["-v"], ["-vv"]))

    assert quiet == ""
    assert f"GET {platform.url}/api/spots/ -> 200" in one
    assert "answer headers" in two
    three = fas("deployments", "get", "nothing", "-vvv", code=FAILED).stderr
    assert "Traceback" in three
    assert platform.token not in one + two + three


def test_ctrl_c_says_that_the_run_goes_on(fas: Fas, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(Faaspot().deployments), "list", interrupted)

    assert "goes on" in fas("deployments", "list", code=INTERRUPTED).stderr
