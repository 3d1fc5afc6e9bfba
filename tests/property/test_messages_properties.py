"""Whatever hostile code says on the agent's channels: it is understood, or refused by the one exception for it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from faaspot_runner.agent import wire
from faaspot_runner.contract import Error
from faaspot_runner.sandbox import messages, result
from faaspot_runner.sandbox.messages import Broken
from faaspot_runner.sandbox.result import Frame, Malformed

MOST = 200
text = st.text(max_size=30) | st.sampled_from(["\ud800", "\0", "run-1"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**320) | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("id", "status", "errno", "message", "cpu_ms", "max_memory_mb", "import_ms", "stage", "error")
OPS = st.sampled_from(["forked", "exited", "refused", "ready", "ended", "failed", "mounted", "x" * 1000])
said = st.builds(lambda op, rest: {**rest, "op": op}, OPS, st.dictionaries(st.sampled_from(FIELDS), values))
pieces = st.lists(st.binary(max_size=60), max_size=8)
bodies = st.builds(
    lambda head, rest, tail: head + rest + tail,
    st.sampled_from([b'{"ok":true,', b'{"ok":true,"output":', b'{"ok":false,"reason":"error","error":', b"", b"["]),
    st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"}", b"", b"}}", b'"output":1}']),
)


def storable(words: str) -> bool:
    """What databases and UTF-8 can hold. Raises UnicodeEncodeError where it cannot."""
    return b"\0" not in words.encode()


@given(said)
def test_a_word_about_a_run_is_one_or_broken(message: dict[str, Any]) -> None:
    with contextlib.suppress(Broken):
        understood = messages.of_run(message)
        assert understood.id == message["id"]


@given(said)
def test_a_word_about_a_start_is_one_or_broken(message: dict[str, Any]) -> None:
    with contextlib.suppress(Broken):
        understood = messages.of_start(message)
        if isinstance(understood, messages.ImportFailed):
            check_error(understood.error)


def check_error(error: Error) -> None:
    assert all(storable(words) for words in (error.type, error.message, error.traceback or ""))


@given(pieces)
def test_a_frame_keeps_no_more_than_it_may(parts: list[bytes]) -> None:
    frame = Frame(MOST)
    with contextlib.suppress(Malformed):
        for part in parts:
            if frame.add(part):
                assert len(frame.result().output or "") <= MOST
                return


@given(bodies)
def test_a_result_is_strict_json_or_malformed(body: bytes) -> None:
    with contextlib.suppress(Malformed):
        found = result.parse(body, MOST)
        if found.output is not None:
            assert len(found.output.encode()) <= MOST
            json.loads(found.output, parse_constant=lambda name: 1 / 0)
        else:
            assert found.error is not None
            check_error(found.error)
        assert 0 <= found.cpu_ms < 1e12
        assert 0 <= found.max_memory_mb < 1e12


@given(st.binary(max_size=200) | said.map(lambda value: json.dumps(value).encode()), st.integers(0, 5))
def test_a_message_with_descriptors_leaves_none_open_that_nobody_asked_for(data: bytes, descriptors: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    null = os.open("/dev/null", os.O_RDONLY)
    with ours, theirs:
        socket.send_fds(theirs, [data or b"{"], [null] * descriptors)
        with contextlib.suppress(wire.WireError):
            got = wire.receive(ours, 1)
            assert got is not None
            assert len(got[1]) <= 1
            wire.close(got[1])
    os.close(null)
    assert len(os.listdir("/proc/self/fd")) == before
