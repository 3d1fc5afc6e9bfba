"""A result that is too long for a record goes to a file while it comes; what is around it is judged as ever."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pytest

from faaspot_runner.agent import wire
from faaspot_runner.contract import MAX_RESULT_BYTES
from faaspot_runner.sandbox.large import Incoming, NoRoomError
from faaspot_runner.sandbox.result import ENVELOPE_BYTES, HEAD_BYTES, Frame, Malformed, Result, TooLarge

MOST = 2 * MAX_RESULT_BYTES
OUTPUT = b'"' + b"x" * MAX_RESULT_BYTES + b'"'
HEAD = b'{"ok":true,"began":1.0,"finished":2.0,"cpu_ms":3.0,"max_memory_mb":4.0,"output":'


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[IO[bytes]]]:
    """The files that were opened."""
    files: list[IO[bytes]] = []
    yield files
    for file in files:
        file.close()


def frame(opened: list[IO[bytes]], where: Path, most: int = MOST) -> Frame:
    def spool() -> IO[bytes]:
        opened.append(TemporaryFile(dir=where))  # noqa: SIM115 (the fixture closes it)
        return opened[-1]

    return Frame(most, spool)


def taken(found: Frame, data: bytes, step: int = 200_000) -> Result | None:
    """The result once all has come, in pieces; None if it is not whole then."""
    whole = [found.add(data[at : at + step]) for at in range(0, len(data), step)]
    return found.result() if whole[-1] else None


@pytest.mark.parametrize("step", [3, 4, 70, 4096, 1 << 30])
def test_it_is_in_a_file_however_it_comes(tmp_path: Path, opened: list[IO[bytes]], step: int) -> None:
    data = wire.frame(HEAD + OUTPUT + b"}")
    found = frame(opened, tmp_path)
    for at in range(0, 200, step):
        assert not found.add(data[at : min(at + step, 200)]) or step > len(data)
    result = taken(found, data[200:])
    assert result is not None
    assert (result.reason, result.output, result.cpu_ms, result.max_memory_mb) == (None, None, 3.0, 4.0)
    assert result.large is not None
    assert (result.large.size, result.large.digest) == (len(OUTPUT), hashlib.sha256(OUTPUT).hexdigest())
    result.large.file.seek(0)
    assert result.large.file.read() == OUTPUT
    assert found.exact()
    found.close()
    assert not result.large.file.closed, "it is the result's"
    assert os.listdir(tmp_path) == [], "it has no name"


def test_what_fits_into_a_record_stays_out_of_files(tmp_path: Path, opened: list[IO[bytes]]) -> None:
    result = taken(frame(opened, tmp_path), wire.frame(HEAD + b'"short"}'))
    assert result is not None
    assert (result.output, result.large, opened) == ('"short"', None, [])


def test_what_comes_after_it_is_none_of_it(tmp_path: Path, opened: list[IO[bytes]]) -> None:
    found = frame(opened, tmp_path)
    result = taken(found, wire.frame(HEAD + OUTPUT + b"}") + b"more")
    assert result is not None
    assert result.large is not None
    assert result.large.size == len(OUTPUT)
    assert not found.exact()


@pytest.mark.parametrize(
    "payload",
    [
        HEAD + OUTPUT + b"]",
        b'{"ok":false,"error":{"message":' + OUTPUT + b"}}",
        b'{"ok":true,"why":"' + b"y" * HEAD_BYTES + b'","output":' + OUTPUT + b"}",
        b" " * MAX_RESULT_BYTES + HEAD + b"1}",
        b'{"ok":true,"cpu_ms":NaN,"output":' + OUTPUT + b"}",
    ],
    ids=["unclosed", "failure", "long head", "no head", "no strict head"],
)
def test_all_else_is_malformed_and_leaves_nothing(tmp_path: Path, opened: list[IO[bytes]], payload: bytes) -> None:
    found = frame(opened, tmp_path)
    with pytest.raises(Malformed) as raised:
        taken(found, wire.frame(payload))
    assert not isinstance(raised.value, TooLarge)
    found.close()
    assert all(file.closed for file in opened)


def test_what_says_that_it_is_longer_than_any_is_not_waited_for(tmp_path: Path, opened: list[IO[bytes]]) -> None:
    with pytest.raises(TooLarge):
        frame(opened, tmp_path).add(wire.header(MOST + ENVELOPE_BYTES + 1))
    assert opened == []


def test_without_room_on_the_disk_there_is_none_and_it_is_said(tmp_path: Path) -> None:
    with TemporaryFile(dir=tmp_path) as file:
        disk = os.fstatvfs(file.fileno())
        with pytest.raises(NoRoomError):
            Incoming(file, disk.f_blocks * disk.f_frsize)


def test_a_disk_that_turns_out_to_be_full_ends_the_result_by_its_limit() -> None:
    full = Frame(MOST, lambda: open("/dev/full", "wb"))  # noqa: SIM115 (the frame's to close)
    with pytest.raises(TooLarge) as raised:
        taken(full, wire.frame(HEAD + OUTPUT + b"}"))
    assert "cannot keep a result" in raised.value.error.message
    assert "No space left" in raised.value.error.message
    full.close()
