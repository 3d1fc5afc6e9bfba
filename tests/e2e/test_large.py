"""A result that is too long for a record: whole for whoever asks, and in nobody's memory but the function's."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import urllib.request
from pathlib import Path

from faaspot import Faaspot
from tests.e2e.test_first_run import removed
from tests.platforms import Platform, command_line

MEGABYTE = 1024 * 1024
LARGE = "def main(args, context):\n    return 'x' * args['n']\n"


def stored(platform: Platform) -> int:
    """Bytes of all that the platform keeps beside blobs, also what earlier tests have left."""
    found = 0
    for folder, folders, names in os.walk(platform.data):  # lives through what vanishes meanwhile
        folders[:] = [name for name in folders if name != "blobs"]
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found += os.lstat(os.path.join(folder, name)).st_size
    return found


def test_a_large_result_comes_whole_however_it_is_asked_for(platform: Platform) -> None:
    removed(platform, "large")
    platform.deploy("large", LARGE, memory=256)
    size, before = 24 * MEGABYTE, stored(platform)
    digest = hashlib.sha256(json.dumps("x" * size).encode()).hexdigest()
    answer = platform.run("large", {"n": size})
    assert (answer.status, len(answer.text)) == (200, size + 2)

    with Faaspot(host=platform.url, token=platform.token) as client:
        run = client.deployments.run("large", {"n": size})
        assert client.executions.result(run) == "x" * size
        record = client.executions.get(run)
        assert (record.status, record.output, record.output_size) == ("Success", None, size + 2)
        assert [len(one) for one in client.deployments.map("large", [{"n": size}, {"n": 5}])] == [size, 5]

    (blob,) = (platform.data / "blobs" / digest[:2]).glob(digest)
    assert blob.stat().st_size == size + 2
    assert stored(platform) - before < size, "neither the database nor Redis' file holds it"


ECHO = "def main(args, context):\n    return args['s']\n"
HELD = 80
"""MB that a process of ours may grow by while much more goes past it."""


def test_300_mb_there_and_back_are_in_no_process_of_ours(platform: Platform) -> None:
    removed(platform, "echo")
    platform.deploy("echo", ECHO, memory=2048)
    platform.run("echo", {"s": "warm"})
    size = 300 * MEGABYTE
    file = platform.home / "args.json"
    digest = written(file, size)
    with Faaspot(host=platform.url, token=platform.token) as client:
        ours = peaks(platform)
        run = client.deployments.run("echo", file)
        record = client.executions.wait(run)
        assert (record.status, record.args, record.args_size) == ("Success", None, size + 8), record
        assert record.output_size == size + 2
        again = client.executions.rerun(run)
        assert client.executions.wait(again).args_size == size + 8
    assert downloaded(platform, f"executions/{run}/args") == digest
    assert downloaded(platform, f"executions/{again}/output") == output_digest(size)
    grown = {line: peak - ours.get(line, peak) for line, peak in peaks(platform).items()}
    assert max(grown.values()) < HELD, grown
    (blob,) = (platform.data / "blobs" / digest[:2]).glob(digest)
    assert blob.stat().st_size == size + 8
    platform.undeploy("echo")


def test_large_args_of_every_kind_of_run(platform: Platform) -> None:
    removed(platform, "length")
    platform.deploy("length", "def main(args, context):\n    return len(args['s'])\n", memory=256, reuse=True)
    args = {"s": "é" * (6 * MEGABYTE)}
    text = json.dumps(args, ensure_ascii=False, separators=(",", ":")).encode()
    for _ in range(2):  # the second in the process of the first
        answer = platform.call("POST", "sync/deployments/length/rpc/", raw=text)
        assert (answer.status, answer.text) == (200, str(6 * MEGABYTE)), answer
    file = platform.home / "length.json"
    file.write_bytes(text)
    file.chmod(0o644)
    assert platform.fas("deployments", "run", "length", "--args", f"@{file}", "--wait").stdout == f"{6 * MEGABYTE}\n"
    with Faaspot(host=platform.url, token=platform.token) as client:
        assert list(client.deployments.map("length", [args, {"s": "x"}])) == [6 * MEGABYTE, 1]
        listed = client.executions.list(True, "length", limit=10)
        assert {(each.args_size, each.args is None) for each in listed if each.args_size} == {(len(text), True)}
        assert client.executions.args(listed[1].uuid) == args


def test_args_that_are_no_strict_json_end_the_run_and_say_so(platform: Platform) -> None:
    removed(platform, "strict")
    platform.deploy("strict", ECHO, memory=256)
    pad = b" " * 9 * MEGABYTE
    for text, said in (
        (b'{"s": NaN}' + pad, "NaN"),
        (b'{"s": 1' + pad, "not JSON"),
        (b'{"s": 1, "s": 2}' + pad, "twice"),
        (b'{"s": "\\ud800"}' + pad, "surrogates"),
        (b'{"s": "\xff"}' + pad, "not UTF-8"),
        (b'{"s": ' + b"[" * 100_000 + pad, "deep"),
    ):
        answer = platform.call("POST", "sync/deployments/strict/rpc/", raw=text)
        assert (answer.status, answer.json["error_code"], answer.json["error"]["type"]) == (500, "error", "InvalidArgs")
        assert said in answer.json["message"], answer
    refused = platform.call("POST", "deployments/strict/rpc/", raw=b"[1]" + pad)
    assert (refused.status, refused.json["error_code"]) == (400, "invalid")
    over = platform.call("POST", "deployments/strict/rpc/", raw=b'{"s": "' + b"x" * 257 * MEGABYTE + b'"}')
    assert (over.status, over.json["error_code"]) == (413, "too_large")
    assert platform.run("strict", {"s": "well"}).json == "well"


def written(file: Path, size: int) -> str:
    """A file of JSON args with a text of that size; its digest."""
    found = hashlib.sha256()
    with file.open("wb") as out:
        for piece in (b'{"s":"', *[b"x" * MEGABYTE] * (size // MEGABYTE), b'"}'):
            found.update(piece)
            out.write(piece)
    return found.hexdigest()


def output_digest(size: int) -> str:
    found = hashlib.sha256(b'"')
    for _ in range(size // MEGABYTE):
        found.update(b"x" * MEGABYTE)
    found.update(b'"')
    return found.hexdigest()


def downloaded(platform: Platform, path: str) -> str:
    """The digest of an answer, read in pieces."""
    headers = {"Authorization": f"Token {platform.token}"}
    found = hashlib.sha256()
    with urllib.request.urlopen(urllib.request.Request(f"{platform.url}/v1/{path}", headers=headers)) as answer:
        while piece := answer.read(MEGABYTE):
            found.update(piece)
    return found.hexdigest()


def peaks(platform: Platform) -> dict[str, int]:
    """The most memory in MB that each process of the platform's own has had, by pid and command line; no sandbox's."""
    found = {}
    for pid in platform.processes():
        line = command_line(pid)
        if "faaspot_api" in line or "faaspot_runner" in line or "redis" in line or "valkey" in line:
            status = Path(f"/proc/{pid}/status").read_text()
            found[f"{pid} {line}"] = int(status.split("VmHWM:")[1].split()[0]) // 1024
    return found
