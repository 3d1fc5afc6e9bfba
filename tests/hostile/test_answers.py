"""B12, B15, B16, B17, B19: what callers learn from answers, put into them, and how they could keep others from any."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import statistics
import time
import uuid
from collections.abc import Iterator

import pytest

from tests.hostile.conftest import Arena
from tests.hostile.test_requests import everything_stored, raw_request
from tests.platforms import Answer

SAMPLES = 600
"""Of each of two kinds of wrong token."""
MARKUP = "<script>alert(1)</script></textarea><svg onload=alert(2)>javascript:alert(3)\x1b[2J\x1b]0;owned\x07"
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


def test_b12_no_text_of_a_token_is_kept_and_no_prefix_of_one_is_quicker(arena: Arena) -> None:
    """A look-up by hash: how much of a guess is right says nothing about its hash. Medians, the two kinds in turn."""
    name = f"b12-{uuid.uuid4().hex[:6]}"
    text = arena.platform.call("PUT", "tokens/", {"name": name, "role": "invoker"}).json["token"]
    stored = everything_stored(arena)
    assert text.encode() not in stored
    assert hashlib.sha256(text.encode()).hexdigest().encode() in stored
    guesses = {"none": "x" * len(text), "all but one": text[:-1] + ("A" if text[-1] != "A" else "B")}
    taken: dict[str, list[float]] = {kind: [] for kind in guesses}
    for _ in range(SAMPLES):
        for kind, guess in guesses.items():
            began = time.perf_counter()
            assert asked(arena, guess) == 401
            taken[kind].append(time.perf_counter() - began)
    none, nearly = (statistics.median(samples) for samples in taken.values())
    assert abs(none - nearly) < 0.2 * none, (none, nearly)
    assert arena.platform.call("DELETE", f"tokens/{name}").status == 200


def asked(arena: Arena, token: str) -> int:
    """The status that this token gets; on a connection of its own, since a refused one is closed."""
    connection = http.client.HTTPConnection(arena.platform.host, arena.platform.port, timeout=20)
    try:
        connection.request("GET", "/v1/deployments/", headers={"Authorization": f"Token {token}"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_b15_markup_in_what_functions_and_callers_say_is_never_a_page(arena: Arena) -> None:
    code = f"""
    TEXT = {MARKUP!r}
    def main(args, context):
        print(TEXT)
        if args.get("fail"):
            raise ValueError(TEXT)
        return TEXT
    """
    platform = arena.platform
    with arena.deployed(code, description=MARKUP) as name:
        good = platform.run(name, {"text": MARKUP})
        bad = platform.run(name, {"fail": MARKUP})
        said = [
            good,
            bad,
            platform.call("GET", "executions/?include_completed=True"),
            platform.call("GET", "deployments/"),
        ]
        for answer in (good, bad):
            path = f"executions/{answer.headers['Execution-Id']}"
            said += [platform.call("GET", path), platform.call("GET", f"{path}/logs")]
        said.append(platform.call("PUT", "deployments/", {"name": MARKUP, "code": code}))
        said.append(platform.call("GET", f"sync/deployments/{name}/rpc/?text=%3Cscript%3E&%3Csvg%3E=1"))
        said.append(platform.call("GET", "/%3Cscript%3E/%1b%5b2J"))
        assert good.json == MARKUP
    for answer in said:
        no_page(answer)
    assert sum("<script>" in answer.text for answer in said) > 5, "it does come back, as text"


def no_page(answer: Answer) -> None:
    """No browser shows it as one, and no terminal of it obeys, unless it is a log, which is given as it was."""
    kind = answer.headers["Content-Type"].partition(";")[0]
    assert kind in ("application/json", "application/problem+json", "text/plain"), answer.headers
    assert {name: answer.headers.get(name) for name in SAFE} == SAFE
    if kind != "text/plain":
        assert not set(answer.text) & {"\x1b", "\x07"}, answer


FORGED = "forged-line-7c1d"


def test_b16_line_ends_forge_no_header_and_no_line_of_a_log(arena: Arena) -> None:
    platform = arena.platform
    end = f'\r\n{FORGED}: yes\r\n\r\n{{"level": "info", "event": "{FORGED}"}}\n{FORGED}\n'
    quoted = end.replace("\r", "%0D").replace("\n", "%0A").replace(" ", "%20").replace('"', "%22")
    answers = [
        platform.call("PUT", "deployments/", {"name": "x" + end, "code": "def main(args, context): return 1\n"}),
        platform.run("innocent", {"n": end}),
        platform.call("GET", f"executions/{quoted}"),
        platform.call("GET", f"sync/deployments/innocent/rpc/?n={quoted}"),
        platform.call("GET", f"executions/?cursor={quoted}"),
        platform.call("GET", f"/v1/{quoted}"),
    ]
    for header in ("Prefer", "Idempotency-Key", "X-Request-Id", "User-Agent"):
        line = f"{header}: a\r{FORGED}: yes\r\n{header}: \x85{FORGED}\r\n"
        head = f"GET /v1/deployments/ HTTP/1.1\r\nHost: x\r\nAuthorization: Token {platform.token}\r\n{line}\r\n"
        said = raw_request(arena, head.encode("latin-1")).partition(b"\r\n\r\n")[0]
        assert FORGED.encode() not in said, said
    for answer in answers:
        assert not [name for name in answer.headers if FORGED in name], answer.headers
    assert answers[1].json == f"fine {end}"
    assert forged_lines(arena) == []


def forged_lines(arena: Arena) -> list[str]:
    """Lines of the platform's own logs that a caller began, or wrote whole."""
    logs = [path.read_text(errors="replace") for path in (arena.platform.data / "logs").rglob("*") if path.is_file()]
    assert logs
    lines = [line for text in (*logs, arena.platform.console()) for line in text.splitlines()]
    return [line for line in lines if line.startswith((FORGED, f'{{"level": "info", "event": "{FORGED}"'))]


@contextlib.contextmanager
def held(arena: Arena, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    """So many connections that have sent `data` and say nothing more."""
    with contextlib.ExitStack() as stack:
        address = (arena.platform.host, arena.platform.port)
        connections = [stack.enter_context(socket.create_connection(address, 20)) for _ in range(count)]
        for connection in connections:
            connection.sendall(data)
        yield connections


def test_b17_idle_and_slow_connections_keep_nobody_else_from_being_served(arena: Arena) -> None:
    """Some take their refusal and stay. Fewer slow ones than threads: against more of them a proxy has to stand in front (SECURITY.md)."""
    body = f"POST /v1/deployments/innocent/rpc/ HTTP/1.1\r\nHost: x\r\nAuthorization: Token {arena.platform.token}\r\n"
    with (
        held(arena, 1000, b""),
        held(arena, 50, b"GET /v1/deployments/ HTTP/1.1\r\nHost: x\r\n\r\n"),
        held(arena, 100, b"GET /v1/deployments/ HTTP/1.1\r\nHost: x\r\nX-Slow: "),
        held(arena, 100, f"{body}Content-Length: 100\r\n\r\n{{".encode()),
    ):
        began = time.monotonic()
        for _ in range(5):
            arena.healthy()
        assert time.monotonic() - began < 5
    arena.healthy()


SPOOFS = {
    "Host": "evil.example.com",
    "X-Forwarded-Host": "evil.example.com",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-For": "127.0.0.1",
    "X-Forwarded-Port": "444",
    "X-Forwarded-Prefix": "/evil.example.com",
    "Forwarded": 'for=127.0.0.1;host="evil.example.com";proto=https',
    "X-Original-URL": "/v1/tokens/",
    "X-Rewrite-URL": "/v1/tokens/",
    "X-HTTP-Method-Override": "DELETE",
    "X-Method-Override": "DELETE",
    "X-Http-Method": "DELETE",
    "X-Remote-User": "admin",
    "Script_Name": "/evil.example.com",
}


@pytest.mark.parametrize("header", SPOOFS)
def test_b19_headers_that_only_a_proxy_may_say_change_nothing(arena: Arena, header: str) -> None:
    platform, spoof = arena.platform, {header: SPOOFS[header]}
    for path in ("deployments/innocent", "deployments/", "nowhere", "executions/?limit=1"):
        plain, spoofed = platform.call("GET", path), platform.call("GET", path, headers=spoof)
        assert spoofed.status == plain.status
        assert "evil.example.com" not in spoofed.text + json.dumps(spoofed.headers)
        if path.startswith("deployments"):
            assert spoofed.json == plain.json
    assert platform.call("POST", "deployments/innocent/rpc/", {"n": "1"}, headers=spoof).status == 200
    assert platform.call("GET", "deployments/", token=None, headers=spoof).status == 401
    assert platform.call("GET", "deployments/innocent").status == 200, "no method was overridden"
    arena.healthy()
