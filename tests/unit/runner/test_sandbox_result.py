"""What comes from inside is judged as bytes from hostile code; and how a run's log is kept."""

from __future__ import annotations

import json
import os

import pytest

from faaspot_runner.contract import MAX_RESULT_BYTES
from faaspot_runner.sandbox.log import RunLog
from faaspot_runner.sandbox.outcome import request_frame
from faaspot_runner.sandbox.result import MESSAGE_CHARS, TRACEBACK_CHARS, Malformed, bounded_error, parse


def success(output: bytes) -> bytes:
    return b'{"ok":true,"cpu_ms":1.5,"max_memory_mb":9.25,"output":' + output + b"}"


def test_a_result_keeps_its_text_and_tells_its_usage() -> None:
    text = '{"b": 1, "a": ["\\u00e9", 1e5]}'
    result = parse(success(text.encode()), 1000)
    assert (result.reason, result.output, result.cpu_ms, result.max_memory_mb) == (None, text, 1.5, 9.25)


def test_the_limit_is_of_the_output_alone() -> None:
    assert parse(success(b'"' + b"x" * 98 + b'"'), 100).reason is None
    assert parse(success(b'"' + b"x" * 99 + b'"'), 100).reason == "limit"


@pytest.mark.parametrize(
    "frame",
    [
        b"", b"null", b"{}", b'{"ok":true}', b'{"ok":true,"output":1', b'{"ok":1,"output":1}', success(b"NaN"),
        success(b"-Infinity"), success(b'"\\uDc00"'), success(b"1,2"), success(b"\xff"), success(b"[" * 100_000),
        b'{"ok":false,"reason":"timeout","error":{}}', b'{"ok":false,"error":{}}', b"\x80\x04.",
    ],
)  # fmt: skip
def test_all_else_is_malformed(frame: bytes) -> None:
    with pytest.raises(Malformed):
        parse(frame, MAX_RESULT_BYTES)


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert parse(success(b'"\\ud83d\\ude00"'), 100).output == '"\\ud83d\\ude00"'


def test_a_failure_carries_a_bounded_error() -> None:
    said = {"type": "T" * 999, "message": "\0" * 99_999, "traceback": ["not", "text"] * 99_999}
    result = parse(json.dumps({"ok": False, "reason": "error", "error": said}).encode(), 100)
    assert result.reason == "error"
    assert result.error is not None
    assert result.error.message == "\ufffd" * MESSAGE_CHARS
    assert len(result.error.type) == 200
    assert len(result.error.traceback or "") <= TRACEBACK_CHARS


@pytest.mark.parametrize("said", [None, 3, [], {"message": {"a": 1}}, {"message": "\ud800"}])
def test_an_error_can_be_made_of_anything(said: object) -> None:
    bounded_error(said).message.encode()


def test_a_request_takes_the_json_texts_as_they_are() -> None:
    frame = request_frame('{"a": 1.50}', "{}", {"A": "é"}, 7)
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert b'"args":{"a": 1.50},' in frame
    assert json.loads(frame[4:]) == {"args": {"a": 1.5}, "context": {}, "environ": {"A": "é"}, "result_limit": 7}


def test_a_log_keeps_its_beginning_and_counts_the_rest() -> None:
    pieces: list[bytes] = []
    log = RunLog(10, pieces.append)
    for data in (b"abc", b"defgh", b"ijklm", b"n" * 30_000, b"o"):
        os.write(log.write_end, data)
        assert log.drain() is True
    log.close_write_end()
    assert log.drain() is False
    assert b"".join(pieces) == b"abcdefghij"
    assert log.text() == ("abcdefghij\n[faaspot: log cut here, 30004 more bytes were dropped]\n", True)
    log.close()


def test_a_log_that_fits_is_whole() -> None:
    log = RunLog(4)
    os.write(log.write_end, b"a\0\xff\n")
    log.drain()
    assert log.text() == ("a\ufffd\ufffd\n", False)
    log.close()
