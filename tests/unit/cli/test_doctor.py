"""`fas doctor --server`."""

from __future__ import annotations

from faaspot_api.services.doctor import Check
from fas.command import FAILED, UNREACHED
from tests.unit.cli.conftest import Fas
from tests.unit.sdk.served import Served


def test_it_shows_how_the_platform_is(fas: Fas, platform: Served) -> None:
    shown = fas("doctor", "--server").stdout
    assert f"faaspot 9.9 at {platform.url} answers in" in shown
    assert "ok  parts  queue    Redis" in shown
    assert "clock" not in shown
    assert [check["name"] for check in fas.json("doctor", "--server")["checks"]] == ["reached", "queue"]


def test_what_is_missing_ends_it_with_1_and_says_what_to_do(fas: Fas, platform: Served) -> None:
    missing = Check(section="spots", name="any", answer="missing", text="no spot is online", what_to_do="fas spots add")
    platform.services.state.checks.append(missing)
    shown = fas("doctor", "--server", code=FAILED).stdout
    assert "no spot is online" in shown
    assert "-> fas spots add" in shown


def test_a_platform_that_is_not_there_is_an_error(bare: Fas) -> None:
    bare("doctor", "--server", code=UNREACHED)
