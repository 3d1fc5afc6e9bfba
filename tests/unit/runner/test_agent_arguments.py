"""Large args are as strictly JSON as short ones: what the API refuses in those, a run's process refuses in these."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import pytest

from faaspot_api.errors import Invalid
from faaspot_api.http import strict
from faaspot_runner.agent import arguments, child, wire
from faaspot_runner.agent.arguments import InvalidArgs

GOOD = ["{}", ' {"a": [1, 2.5, null, true, "x"]}\n', '{"é": "\\ud83d\\ude00"}', '{"a": "\\\\ud800"}', '{"a": 1e308}']
BAD = [
    "", "{", "{} x", '{"a": NaN}', '{"a": -Infinity}', '{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 1}}', '{"a": 1e999}',
    '{"a": "\\ud800"}', '{"\\udfff": 1}', '{"a": ["\\ud800"]}', "\ufeff{}", '{"a": %s}' % ("9" * 5000),
    '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "{'a': 1}", '{"a": "\n"}',
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_what_the_api_takes_is_taken(text: str) -> None:
    assert arguments.parse(text) == strict.load(text) == json.loads(text)


@pytest.mark.parametrize("text", BAD, ids=lambda text: ascii(text[:20]))
def test_what_the_api_refuses_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        strict.load(text)
    with pytest.raises(InvalidArgs, match="the args are"):
        arguments.parse(text)


@pytest.mark.parametrize("text", ["[]", "null", '"x"', "1"])
def test_they_are_an_object(text: str) -> None:
    with pytest.raises(InvalidArgs, match="must be a JSON object"):
        arguments.parse(text)


def answered(request: dict[str, Any], behind: bytes, close: bool = False) -> dict[str, Any]:
    """The answer of a run whose `main` gives its args back."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=ours.sendall, args=[behind])
        sender.start()
        if close:
            sender.join()
            ours.shutdown(socket.SHUT_WR)
        parts = child.answer(lambda args, context: args, request, 0.0, theirs)  # type: ignore[arg-type]
        sender.join()
    answer: dict[str, Any] = json.loads(b"".join(parts))
    return answer


def test_they_are_read_behind_the_request() -> None:
    text = json.dumps({"s": "é" * 1_000_000}).encode()
    request = {"args_bytes": len(text), "context": {}, "result_limit": 10**8, "keep": True}
    assert answered(request, text)["output"] == {"s": "é" * 1_000_000}
    assert request["keep"], "it read all that was sent, and can read another request"


@pytest.mark.parametrize(("behind", "said"), [(b'{"a":NaN}', "NaN"), (b'{"a": "\xff"}', "UTF-8 (byte 7)")])
def test_others_are_an_error_of_the_run_that_may_serve_on(behind: bytes, said: str) -> None:
    request = {"args_bytes": len(behind), "context": {}, "result_limit": 100, "keep": True}
    answer = answered(request, behind)
    assert (answer["ok"], answer["reason"], answer["error"]["type"]) == (False, "error", "InvalidArgs")
    assert said in answer["error"]["message"]
    assert request.get("keep", False) is (said == "NaN")


def test_who_could_not_read_them_whole_serves_no_other() -> None:
    request = {"args_bytes": 100, "context": {}, "result_limit": 100, "keep": True}
    assert answered(request, b"{}", close=True)["error"]["type"].endswith(wire.WireError.__name__)
    assert "keep" not in request


def test_a_result_does_not_hold_the_args_until_the_next_request() -> None:
    request = {"args": {"n": 1}, "context": {}, "result_limit": 100}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child.serve(lambda args, context: "args" in request, theirs, request)  # type: ignore[arg-type]
        assert json.loads(wire.read_frame(ours))["output"] is True, "while main runs they are"
    assert "args" not in request
