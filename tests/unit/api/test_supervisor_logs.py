"""What children write is kept within bounds, and nothing they write can forge a line at the console."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from faaspot_api.supervisor import logs
from faaspot_api.supervisor.logs import ChildLog, copy_lines, say


def copied(log: ChildLog, *parts: bytes) -> None:
    async def run() -> None:
        reader = asyncio.StreamReader()
        for part in parts:
            reader.feed_data(part)
        reader.feed_eof()
        await copy_lines(reader, log)

    asyncio.run(run())
    log.close()


def test_lines_are_kept_and_the_last_are_at_hand(tmp_path: Path) -> None:
    log = ChildLog(tmp_path / "x.log")
    copied(log, b"one\ntw", b"o\nlast without end")
    assert log.path.read_bytes() == b"one\ntwo\nlast without end\n"
    assert list(log.last) == ["one", "two", "last without end"]


def test_a_log_goes_on_after_a_restart(tmp_path: Path) -> None:
    for text in (b"first\n", b"second\n"):
        copied(ChildLog(tmp_path / "x.log"), text)
    assert (tmp_path / "x.log").read_bytes() == b"first\nsecond\n"


def test_a_full_log_is_turned_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 100)
    copied(ChildLog(tmp_path / "x.log"), b"".join(b"line %03d\n" % number for number in range(100)))
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(kept) == {"x.log", "x.log.1"}
    assert all(len(content) <= 100 for content in kept.values())
    assert (kept["x.log.1"] + kept["x.log"]).endswith(b"line 098\nline 099\n")


def test_a_line_that_never_ends_is_cut_into_pieces(tmp_path: Path) -> None:
    log = ChildLog(tmp_path / "x.log")
    copied(log, b"x" * (5 * logs.MAX_LINE))
    lines = log.path.read_bytes().split(b"\n")
    assert b"".join(lines) == b"x" * (5 * logs.MAX_LINE)
    assert max(len(line) for line in lines) <= 2 * logs.MAX_LINE


def test_a_message_is_one_line_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    say("spot died\nfaaspot: forged \x1b[31m\rred")
    assert capsys.readouterr().err == "faaspot: spot died | faaspot: forged ?[31m?red\n"
