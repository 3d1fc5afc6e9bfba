"""What a command says to do next: by the error and by the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from faaspot import Profiles
from fas.command import FAILED, STILL_GOING, UNREACHED, USAGE
from tests.unit.cli.conftest import Fas
from tests.unit.sdk.served import Served, unused_port, write


@pytest.fixture
def endless(fas: Fas, own_folder: Path) -> str:
    write(own_folder, "f.py", "def main(args, context):\n    pass  # never ends\n")
    fas("deployments", "create", "endless", "-f", "f.py")
    return "endless"


def test_a_version_that_is_not_there(fas: Fas, endless: str) -> None:
    for words in (("versions", endless, "99"), ("rollback", endless, "99")):
        said = fas("functions", *words, code=FAILED).stderr
        assert "`fas deployments versions endless` shows its versions" in said
    assert "`fas deployments list` shows" in fas("functions", "versions", "nothing", code=FAILED).stderr


def test_a_name_that_is_taken(fas: Fas, endless: str) -> None:
    fas("tokens", "create", "ci")

    assert "`fas tokens revoke ci`" in fas("tokens", "create", "ci", code=FAILED).stderr
    assert "`fas deployments update endless`" in fas("deployments", "create", endless, "-f", "f.py", code=FAILED).stderr


def test_a_new_name_that_is_taken(fas: Fas, endless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from faaspot.deployments import Deployments
    from faaspot.errors import Exists

    def taken(*_: object, **__: object) -> None:
        raise Exists("A deployment other exists already.", status=409, error_code="exists")

    monkeypatch.setattr(Deployments, "update", taken)  # the platform in memory renames onto anything

    said = fas("deployments", "update", endless, "-n", "other", code=FAILED).stderr

    assert "Take another name, or first `fas deployments delete other`." in said


def test_the_platforms_own_token_is_not_busy(fas: Fas) -> None:
    assert "under way" not in fas("tokens", "revoke", "admin", code=FAILED).stderr


def test_a_refused_token_names_the_variable_that_it_comes_from(
    platform: Served, bare: Fas, monkeypatch: pytest.MonkeyPatch
) -> None:
    Profiles().create("here", host=platform.url, token=platform.token)
    monkeypatch.setenv("FAASPOT_URL", platform.url)
    assert "set FAASPOT_TOKEN too" in bare("spots", "list", code=FAILED).stderr
    monkeypatch.setenv("FAASPOT_TOKEN", "wrong")
    assert "FAASPOT_TOKEN: set it anew" in bare("spots", "list", code=FAILED).stderr
    assert bare("spots", "list", "--profile", "here").stderr == ""
    monkeypatch.setenv("FAASPOT_URL", f"http://127.0.0.1:{unused_port()}")
    assert "FAASPOT_URL says where" in bare("deployments", "delete", "x", code=UNREACHED).stderr


def test_a_wait_without_any_spot_says_so(fas: Fas, platform: Served, endless: str) -> None:
    assert "spot" not in fas("deployments", "run", endless, "--timeout", "1", code=STILL_GOING).stderr
    platform.services.state.spots.clear()

    said = fas("deployments", "run", endless, "--timeout", "1", code=STILL_GOING).stderr

    assert "No spot is online, so nothing runs: `fas spots add`. `fas executions get " in said


def test_the_form_of_names_and_contexts_is_said_in_words(fas: Fas, endless: str) -> None:
    assert "begins with a letter or digit" in fas("deployments", "create", "-", "-f", "f.py", code=FAILED).stderr


@pytest.mark.parametrize(
    "words",
    [
        ("deployments", "get"),
        ("deployments", "nothing"),
        ("nothing",),
        ("deployments", "list", "--nothing"),
        ("deployments", "run-bulk", "x"),
        ("profiles", "create", "a", "--port", "99999"),
    ],
)
def test_with_json_a_command_that_was_not_typed_right_is_told_in_json(bare: Fas, words: tuple[str, ...]) -> None:
    result = bare(*words, "--json", code=USAGE)

    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert json.loads(line)["message"]


def test_a_word_after_two_dashes_is_no_option(bare: Fas) -> None:
    assert "Usage:" in bare("deployments", "nothing", "--", "--json", code=USAGE).stderr
