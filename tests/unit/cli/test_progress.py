"""Progress: on a terminal a moving line, elsewhere nothing."""

from __future__ import annotations

import io

import pytest

from faaspot import Faaspot
from faaspot.errors import BuildFailed, RunError
from fas import progress
from tests.unit.sdk.served import Served

ECHO = "def main(args, context):\n    return 1\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """From here stderr is a terminal. Not a fixture: pytest puts its own stderr in place when the test begins."""
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", stream)
    return stream


def test_nothing_is_shown_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown("Building") as say:
        say("a detail")

    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_the_text_and_the_last_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, platform: Served
) -> None:
    terminal = on_terminal(monkeypatch)
    with Faaspot(host=platform.url, token=platform.token) as client:
        build = client.deployments.create("echo", code=ECHO)
        record = progress.ended(client, str(build), "Building echo")

    assert record.output == "version 1 is ready"
    assert "Building echo" in terminal.getvalue()


def test_a_detail_is_shown_as_text_and_its_control_characters_are_not_obeyed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = on_terminal(monkeypatch)
    with progress.shown("Building [red]x") as say:
        say("\x1b[2J [bold]detail")

    assert "\x1b[2J" not in terminal.getvalue()
    assert "[red]x" in terminal.getvalue()


def test_a_long_line_is_cut_to_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "40")

    with progress.shown("Building") as say:
        say("word " * 40)

    drawn, mark, _ = terminal.getvalue().partition("…")
    assert mark
    assert "\n" not in drawn


def test_no_colour_means_no_progress_either(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")

    with progress.shown("Building"):
        pass

    assert terminal.getvalue() == ""


def test_a_failed_build_is_its_error(platform: Served) -> None:
    failed = platform.services.state.record(
        "build", "x", status="Failure", reason="build_failed", error={"type": "Resolve", "message": "no such package"}
    )

    with Faaspot(host=platform.url, token=platform.token) as client, pytest.raises(BuildFailed, match="no such"):
        progress.ended(client, failed.uuid, "Building x")
    assert issubclass(BuildFailed, RunError)
