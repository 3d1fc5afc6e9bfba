"""A platform whose blobs are in an object store: everything works as from a directory, and nothing of them is in one."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faaspot import Faaspot
from faaspot_runner.contract.bucket import opened
from tests import platforms
from tests.e2e.test_large import ECHO, HELD, MEGABYTE, downloaded, output_digest, peaks, written
from tests.object_stores import ObjectStore, object_store
from tests.platforms import SETUPS, Platform

GREETS = "def main(args, context):\n    return context['word'] + args.get('name', '')\n"


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture(scope="module")
def remote(store: ObjectStore) -> Iterator[Platform]:
    with platforms.platform(SETUPS[0], environ=store.environ("a")) as running:
        yield running


def in_directories(platform: Platform) -> list[Path]:
    return [path for path in (platform.data / "blobs").rglob("*") if path.is_file()]


def test_code_contexts_and_large_values_are_there_and_in_no_directory(remote: Platform, store: ObjectStore) -> None:
    remote.deploy("greets", GREETS, context="word=hello")
    assert remote.run("greets", {"name": " you"}).json == "hello you"
    remote.deploy("echo", ECHO, memory=1024)
    remote.run("echo", {"s": "warm"})
    size, file = 160 * MEGABYTE, remote.home / "args.json"
    digest = written(file, size)
    with Faaspot(host=remote.url, token=remote.token) as client:
        before = peaks(remote)
        run = client.deployments.run("echo", file)
        assert client.executions.wait(run).status == "Success"
        assert downloaded(remote, f"executions/{run}/args") == digest
        assert downloaded(remote, f"executions/{run}/output") == output_digest(size)
        grown = {line: peak - before.get(line, peak) for line, peak in peaks(remote).items()}
    assert max(grown.values()) < HELD, grown
    bucket = opened(store.address("a"))
    assert bucket.age(digest) is not None
    assert bucket.age(output_digest(size)) is not None
    assert in_directories(remote) == []


def test_the_doctor_says_where_they_are(remote: Platform) -> None:
    said = json.loads(remote.fas("doctor", "--server", "--json").stdout)
    found = [check for check in said["checks"] if check["name"] == "blobs"]
    assert [(check["answer"], "s3://faaspot-tests/a, answers in" in check["text"]) for check in found] == [("ok", True)]


def test_a_backup_has_the_code_and_gives_it_to_another_bucket(remote: Platform, store: ObjectStore) -> None:
    file = remote.home / "backup.tar.gz"
    said = remote.fas("backup", str(file), "--data-dir", str(remote.data)).stderr
    assert "args and results of more than 8 MB" in said
    other = Platform(remote.setup, remote.home / "other", environ=store.environ("b"))
    other.home.mkdir()
    other.fas("restore", str(file), "--data-dir", str(other.data))
    assert in_directories(other) == []
    with other:
        assert other.run("greets", {"name": " again"}).json == "hello again"


@pytest.mark.parametrize(
    ("prefix", "endpoint", "said"),
    [("a", "", "blobs of another platform"), ("c", "http://127.0.0.1:1", r"--blobs: s3://faaspot-tests/c failed")],
)
def test_what_cannot_be_used_is_said_at_the_start(
    remote: Platform, store: ObjectStore, tmp_path: Path, prefix: str, endpoint: str, said: str
) -> None:
    environ = store.environ(prefix) | ({"FAASPOT_BUCKET_ENDPOINT": endpoint} if endpoint else {})
    stranger = Platform(SETUPS[0], tmp_path, environ=environ)
    done: subprocess.CompletedProcess[str] = stranger.fas(
        "up", "--data-dir", str(tmp_path / "data"), "--port", "0", check=False
    )
    assert done.returncode == 2
    assert re.search(said, done.stderr), done.stderr
