"""B rows: requests that are wrong, odd or meant to hurt."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import uuid
from typing import Any

import pytest

from tests.hostile.conftest import Arena
from tests.platforms import Answer

GOOD = "def main(args, context):\n    return args\n"


def refused(answer: Answer, status: int = 400, field: str | None = None) -> Answer:
    """`answer` is the one error shape with this status, naming `field`."""
    assert answer.status == status, answer
    body = answer.json
    assert body["status"] == status
    assert body["message"]
    assert body["error_code"] not in ("internal", None)
    if field is not None:
        assert any(field in error["field"] for error in body["errors"]), body
    return answer


def listed(arena: Arena) -> set[str]:
    return {item["name"] for item in arena.platform.call("GET", "deployments/").json}


BODIES = {
    "not JSON": b"{not json",
    "BOM": b'\xef\xbb\xbf{"n": "1"}',
    "duplicate keys": b'{"n": "1", "n": "2"}',
    "deep": b'{"n":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "NaN": b'{"n": NaN}',
    "Infinity": b'{"n": -Infinity}',
    "bad UTF-8": b'{"n": "\xff\xfe"}',
    "huge int": b'{"n": ' + b"9" * 6000 + b"}",
    "two values": b'{"n": 1} {"n": 2}',
    "a list": b"[1, 2]",
    "a string": b'"text"',
    "null": b"null",
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("path", ["deployments/innocent/rpc/", "sync/deployments/innocent/rpc/"])
def test_b1_a_body_that_is_no_json_object_is_a_400(arena: Arena, kind: str, path: str) -> None:
    refused(arena.platform.call("POST", path, raw=BODIES[kind]))


@pytest.mark.parametrize("kind", BODIES)
def test_b1_so_at_creation(arena: Arena, kind: str) -> None:
    refused(arena.platform.call("PUT", "deployments/", raw=BODIES[kind]))


WRONG: dict[str, list[Any]] = {
    "name": [None, 5, [], {}, True],
    "code": [None, 5, [], ""],
    "requirements": [5, [], {}],
    "context": [5, [1], True],
    "timeout": ["x", -1, 0, 10**9, None, True, []],
    "memory": ["x", -1, 0, 10**9, 1.5],
    "pids": [-1, 0, 10**9],
    "tmp": [-1, 10**9],
    "network": ["all", 5, None],
    "python": [3.12, "4.0", "two"],
    "runtime": ["moon", 5],
    "sdist": ["maybe", 7],
    "reuse": ["maybe", 7],
    "retries": ["x", -1, 101, 1.5, None, True],
    "retry_on": ["error", [5], ["worker_lost"], ["surprise"], None],
    "retry_backoff": ["x", -1, 3601, None],
    "callback_url": [
        5,
        "ftp://example.com/",
        "http://",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://169.254.169.254/latest",
        "x" * 3000,
        "http://10.0.0.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://u:p@example.com/",
        "http://example.com:22/",
        "http://example.com/\r\nX: y",
    ],
    "max_age": ["x", 0, -1, 10**9, None],
    "min_warm": ["x", -1, 1.5, 10**9, None, True],
    "surprise": [1],
    "concurrency": [-1, "x", 10**6, None],
    "keep_days": [0, -1, "x", 10**6, None],
    "keep_runs": [-1, 0.5, "x", None],
}


@pytest.mark.parametrize("field", WRONG)
def test_b2_a_wrong_field_is_named(arena: Arena, field: str) -> None:
    before = listed(arena)
    for value in WRONG[field]:
        body = {"name": "b2-wrong", "code": GOOD, field: value}
        answer = arena.platform.call("PUT", "deployments/", body)
        assert answer.status == 400, (field, value, answer)
        assert field in answer.json["message"], (field, value, answer)
    assert listed(arena) == before


NAMES = [
    "../x", "a/b", ".", "..", "", "-rf", "a\0b", "а-cyrillic", "\u202egnp", "x" * 64, "x" * 10_000, " a", "a ", "a\nb", "a\rb: c", "%2e%2e",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_b3_a_name_outside_the_rule_is_refused(arena: Arena, name: str) -> None:
    refused(arena.platform.call("PUT", "deployments/", {"name": name, "code": GOOD}), 400, "name")


def test_b4_bodies_over_the_limit_are_413_and_not_read_whole(arena: Arena) -> None:
    code = GOOD + "#" * (5 * 1024 * 1024)
    refused(arena.platform.call("PUT", "deployments/", {"name": "big", "code": code}), 413)
    head = f"PUT /v1/deployments/ HTTP/1.1\r\nHost: x\r\nAuthorization: Token {arena.platform.token}\r\n"
    claimed = raw_request(arena, f"{head}Content-Length: 100000000000\r\n\r\n".encode() + b"x" * 1000)
    assert b" 413 " in claimed.split(b"\r\n")[0]
    chunks = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    endless = raw_request(arena, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks * 2000)
    assert endless.split(b"\r\n")[0].split(b" ")[1] in (b"413", b"400")
    head = head.replace("PUT /v1/deployments/", "POST /v1/deployments/innocent/rpc/")
    claimed = raw_request(arena, f"{head}Content-Length: {1 + (1 << 30)}\r\n\r\n".encode() + b"{" * 1000)
    assert b" 413 " in claimed.split(b"\r\n")[0]
    held = sum(path.stat().st_size for path in (arena.platform.data / "blobs").rglob("*"))
    for path, status in (("innocent", 413), ("nobodys", 404)):
        body = b'{"n": "' + b"x" * (257 << 20) + b'"}'
        refused(arena.platform.call("POST", f"deployments/{path}/rpc/", raw=body), status)
    assert sum(path.stat().st_size for path in (arena.platform.data / "blobs").rglob("*")) - held < 1 << 20


def raw_request(arena: Arena, data: bytes) -> bytes:
    """What the server answers to these bytes, whether or not it reads them all."""
    with socket.create_connection((arena.platform.host, arena.platform.port), timeout=20) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
        received = b""
        try:
            while b"\r\n\r\n" not in received:
                piece = connection.recv(65536)
                if not piece:
                    break
                received += piece
        except OSError:
            pass
        return received


SOURCES = {
    "syntax error": ("def main(args, context):\n    return (\n", "line 2"),
    "null byte": ("def main(args, context):\n    return '\0'\n", ""),
    "odd cookie": ("# -*- coding: klingon -*-\ndef main(args, context): return 1\n", "klingon"),
    "no main": ("def other(args, context): return 1\n", "main"),
    "main not callable": ("main = 5\n", "value"),
    "one argument": ("def main(args): return 1\n", "two"),
    "three arguments": ("def main(a, b, c): return 1\n", "two"),
    "keyword only": ("def main(*, args, context): return 1\n", "two"),
    "generator": ("def main(args, context):\n    yield 1\n", "generator"),
    "async generator": ("async def main(args, context):\n    yield 1\n", "generator"),
    "class": ("class main:\n    def __init__(self, args, context): pass\n", "class"),
    "nested too deeply": ("x = " + "(" * 5000 + ")" * 5000 + "\ndef main(args, context): return 1\n", ""),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_b5_code_that_cannot_run_is_refused_at_creation(arena: Arena, kind: str) -> None:
    code, word = SOURCES[kind]
    answer = refused(arena.platform.call("PUT", "deployments/", {"name": "b5-refused", "code": code}), 400, "code")
    assert word in answer.json["message"], answer
    assert "b5-refused" not in listed(arena)


def test_b5_async_main_is_awaited_and_an_odd_cookie_that_exists_is_honoured(arena: Arena) -> None:
    code = "import asyncio\nasync def main(args, context):\n    await asyncio.sleep(0)\n    return args['n'] + 1\n"
    assert arena.attack(code, {"n": 1}).output == 2
    assert arena.attack("from os.path import join as main\n", {"n": 1}).reason == "error"


REQUIREMENTS = [
    "--index-url http://evil/simple", "--extra-index-url http://evil", "-i http://evil", "-e git+https://x/y", "-r /etc/passwd", "-c x",
    "file:///etc/passwd", "./local", "/abs/path.whl", "name @ https://x/y.whl", "--trusted-host evil", "requests --config-settings x=y",
    "requests \\\n==1", "${HOME}", "requests; os.system('x')", "requests==1\rflask", "git+https://x/y", "requests==", "==1.0", "a b",
]  # fmt: skip


@pytest.mark.parametrize("line", REQUIREMENTS)
def test_b6_only_plain_requirements_are_taken_and_the_line_is_named(arena: Arena, line: str) -> None:
    text = f"# a comment\n\n{line}\n"
    body = {"name": "b6-refused", "code": GOOD, "requirements": text}
    answer = refused(arena.platform.call("PUT", "deployments/", body), 400, "requirements")
    assert any(error["line"] == 3 for error in answer.json["errors"]), answer
    assert "b6-refused" not in listed(arena)


def test_b8_a_context_is_parsed_kept_secret_or_refused(arena: Arena) -> None:
    secret = "sEcReT-b8-value"
    for bad in ("no equals sign here\n", "= x\n", "[1, 2]"):
        answer = arena.platform.call(
            "PUT", "deployments/", {"name": "b8-bad", "code": GOOD, "context": bad + f"X={secret}"}
        )
        refused(answer, 400, "context")
        assert secret not in answer.text
    huge = arena.platform.call(
        "PUT", "deployments/", {"name": "b8-bad", "code": GOOD, "context": "A=" + "x" * 10_000_000}
    )
    assert huge.status in (400, 413), huge
    code = "def main(args, context):\n    raise ValueError('failed')\n"
    with arena.deployed(code, context=f'KEY = "{secret}"\nexport OTHER=1\n') as name:
        outcome = arena.judge(arena.platform.run(name))
        seen = [
            arena.platform.call("GET", path).text
            for path in ("deployments/", f"deployments/{name}", "executions/?include_completed=True")
        ]
        assert "KEY" in seen[1]
        assert secret not in "".join(seen) + str(outcome.record) + outcome.log
    assert secret.encode() not in everything_stored(arena)


def everything_stored(arena: Arena) -> bytes:
    """All bytes in files of the data directory: database, Redis' append-only file, blobs, logs."""
    return b"".join(
        path.read_bytes()
        for path in arena.platform.data.rglob("*")
        if path.is_file() and "environments" not in str(path)
    )


def test_b9_of_fifty_parallel_creates_of_one_name_one_succeeds(arena: Arena) -> None:
    answers: list[Answer] = []

    def create() -> None:
        answers.append(arena.platform.call("PUT", "deployments/", {"name": "b9-same", "code": GOOD}))

    threads = [threading.Thread(target=create) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = sorted(answer.status for answer in answers)
    assert statuses == [200] + [409] * 49
    assert {answer.json["error_code"] for answer in answers if answer.status == 409} == {"exists"}
    created = next(answer for answer in answers if answer.status == 200)
    assert arena.platform.ended(created.json)["status"] == "Success"
    arena.platform.undeploy("b9-same")


@pytest.mark.parametrize("execution", [str(uuid.uuid4()), "x", "' OR 1=1 --", "../../etc", "9" * 5000, "%00"])
def test_b10_an_unknown_or_malformed_execution_is_a_404(arena: Arena, execution: str) -> None:
    from urllib.parse import quote

    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/logs")):
        answer = arena.platform.call(method, f"executions/{quote(execution, safe='')}{path}")
        assert answer.status == 404, answer
        assert answer.json["error_code"] == "not_found"


def test_b10_quotes_in_filters_are_only_text(arena: Arena) -> None:
    answer = arena.platform.call("GET", "executions/?deployment=%27%20OR%201%3D1--&include_completed=True")
    assert (answer.status, answer.json) == (200, [])
    for bad in ("status=done", "reason=x", "since=yesterday-ish", "limit=0", "limit=5000", "limit=x", "cursor=zzz"):
        refused(arena.platform.call("GET", f"executions/?{bad}"), 400, bad.split("=")[0])


def test_b13_every_route_needs_a_token(arena: Arena) -> None:
    document = arena.platform.call("GET", arena.platform.url + "/openapi.json", token=None).json
    open_routes = {"/healthz", "/readyz", "/openapi.json"}
    checked = 0
    for path, methods in document["paths"].items():
        for method in methods:
            if path in open_routes or method not in ("get", "put", "post", "patch", "delete"):
                continue
            concrete = path
            while "{" in concrete:
                concrete = concrete[: concrete.index("{")] + "x" + concrete[concrete.index("}") + 1 :]
            bodies = {
                arena.platform.call(method.upper(), arena.platform.url + concrete, token=token).text
                for token in (None, "wrong", "fas_" + "x" * 43)
            }
            statuses = {json.loads(body)["status"] for body in bodies}
            assert statuses == {401}, (method, path, bodies)
            assert len(bodies) == 1, (method, path, bodies)
            checked += 1
    assert checked > 20


ROUTE_BODIES: dict[str, Any] = {
    "put /v1/deployments/": {"name": "made-by-another", "code": GOOD},
    "patch /v1/deployments/{name}": {"code": GOOD},
    "post /v1/deployments/{name}/rollback": {"version": 1},
    "post /v1/deployments/{name}/bulk_rpc/": [{}],
    "patch /v1/spots/": {"min_workers": 1, "max_workers": 1},
    "put /v1/runtimes/": {"name": "made-by-another", "type": "sandbox"},
    "put /v1/tokens/": {"name": "made-by-another", "role": "admin"},
    "patch /v1/spots/{ip}": {"draining": True},
    "put /v1/join": {"ip": "10.0.0.9", "key": base64.b64encode(bytes(32)).decode()},
}
"""What a route needs to get as far as asking who it is; {} elsewhere."""
EVERYONES = {
    *("get /v1/executions/", "get /v1/runtimes/", "get /v1/runtimes/{name}"),
    "get /v1/tokens/callback-secret",  # each has its own
    "post /v1/executions/rerun",  # of one's own failures, of which this one has none
}
MAY = {
    "deployer": EVERYONES | {"get /v1/deployments/", "put /v1/deployments/", "get /v1/spots/", "get /v1/spots/{ip}"},
    "invoker": EVERYONES
    | {f"{method} /v1/{sync}deployments/{{name}}/rpc/" for method in ("get", "put", "post") for sync in ("", "sync/")}
    | {"post /v1/deployments/{name}/bulk_rpc/"},
}
"""Of all routes those that serve a token of this role where everything named is somebody else's."""


@pytest.mark.parametrize("role", MAY)
def test_b13_no_route_serves_a_lesser_role_or_shows_another_owners_things(arena: Arena, role: str) -> None:
    platform = arena.platform
    document = platform.call("GET", platform.url + "/openapi.json", token=None).json
    routes = [f"{method} {path}" for path, methods in document["paths"].items() for method in methods]
    token_name = f"{role}-{uuid.uuid4().hex[:6]}"
    token = platform.call("PUT", "tokens/", {"name": token_name, "role": role}).json["token"]
    served = set()
    with arena.deployed(GOOD) as name:
        execution = platform.run(name).headers["Execution-Id"]
        for route in (each for each in routes if " /v1/" in each):
            method, path = route.split(" ")
            body = (
                None
                if method == "get"
                else [execution]
                if "bulk" in path and "exec" in path
                else ROUTE_BODIES.get(route, {})
            )
            path = path.replace("{name}", "sandbox" if "runtimes" in path else token_name if "tokens" in path else name)
            path = path.replace("{uuid}", execution).replace("{ip}", "127.0.0.1").replace("{number}", "1")
            answer = platform.call(method.upper(), platform.url + path, body, token=token)
            if answer.status < 300:
                served.add(route)
            else:
                assert answer.status in (403, 404), (route, answer)
        assert platform.call("GET", f"deployments/{name}").json["version"] == 1
        assert platform.record(execution)["status"] == "Success"
    assert served == MAY[role]
    if role == "deployer":
        platform.undeploy("made-by-another")
    assert platform.call("DELETE", f"tokens/{token_name}").status == 200


def test_b18_ambiguous_request_framing_is_refused(arena: Arena) -> None:
    head = f"POST /v1/deployments/innocent/rpc/ HTTP/1.1\r\nHost: x\r\nAuthorization: Token {arena.platform.token}\r\n"
    for framing in (
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Content-Length : 2\r\n",
        "Content-Length: 2\r\n folded\r\n",
    ):
        answer = raw_request(arena, (head + framing + "\r\n0\r\n\r\n{}").encode())
        assert answer.split(b" ")[1:2] != [b"200"], (framing, answer)
    arena.healthy()


def test_b30_another_owners_things_are_not_there(arena: Arena) -> None:
    made = arena.platform.call("PUT", "tokens/", {"name": f"tenant-{uuid.uuid4().hex[:6]}", "role": "deployer"})
    assert made.status == 200, made
    tenant = made.json["token"]
    with arena.deployed(GOOD) as name:
        execution = arena.platform.start_run(name)
        for method, path, body in (
            ("GET", f"deployments/{name}", None),
            ("PATCH", f"deployments/{name}", {"code": GOOD}),
            ("DELETE", f"deployments/{name}", None),
            ("POST", f"deployments/{name}/rpc/", {}),
            ("POST", f"sync/deployments/{name}/rpc/", {}),
            ("GET", f"executions/{execution}", None),
            ("GET", f"executions/{execution}/logs", None),
            ("DELETE", f"executions/{execution}", None),
        ):
            answer = arena.platform.call(method, path, body, token=tenant)
            unknown_path = path.replace(name, "never-made").replace(execution, str(uuid.uuid4()))
            unknown = arena.platform.call(method, unknown_path, body, token=tenant)
            assert (answer.status, unknown.status) == (404, 404), (method, path, answer, unknown)
        for path in ("deployments/", "executions/?include_completed=True"):
            assert arena.platform.call("GET", path, token=tenant).json == []
        assert arena.platform.call("GET", "tokens/", token=tenant).status == 403
        arena.platform.ended(execution)
