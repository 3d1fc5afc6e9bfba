"""Packed environments and fetched blobs: what another host gets is what its digest says, whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from faaspot_runner.archives import Archives
from faaspot_runner.blobs import LARGE_SECONDS, BlobError, Blobs
from faaspot_runner.contract import MAX_ARGS_BYTES, BuildRequest, SandboxSpec
from faaspot_runner.environments.archive import Packed, pack, unpacked
from faaspot_runner.environments.build import Environments
from faaspot_runner.environments.errors import BuildError
from faaspot_runner.environments.interpreters import discover
from faaspot_runner.remote import Api, RemoteError
from tests.platforms import eventually
from tests.unit.runner.package_index import PackageIndex


class Store:
    """An API that has blobs, and hands out what a test puts in its place."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.answering = threading.Event()
        self.answering.set()
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                store.asked.append(self.path)
                store.answering.wait(10)
                content = store.blobs.get(self.path.rpartition("/")[2])
                known = self.headers["Authorization"] == "Token secret"
                self.answer(401 if not known else 404 if content is None else 200, content or b'{"message": "no such"}')

            def do_PUT(self) -> None:
                store.blobs[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(200, b"{}")

            def answer(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Tests are silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    thread = threading.Thread(target=store.server.serve_forever, args=(0.01,))
    thread.start()
    yield store
    store.server.shutdown()
    thread.join()
    store.server.server_close()


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_blob_is_fetched_once_and_compared(store: Store, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs", lambda: Api(store.url, "secret"))
    digest = digest_of(b"code")
    store.blobs[digest] = b"code"
    assert [blobs.read(digest), blobs.read(digest)] == [b"code", b"code"]
    assert store.asked == [f"/v1/blobs/{digest}"]


def test_a_blob_that_many_want_at_once_is_fetched_once(store: Store, tmp_path: Path) -> None:
    digest = digest_of(b"code")
    store.blobs[digest] = b"code"
    store.answering.clear()
    together, found = threading.Barrier(9), []

    def read() -> None:
        blobs = Blobs(tmp_path / "blobs", lambda: Api(store.url, "secret"))
        together.wait(10)
        found.append(blobs.read(digest))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    together.wait(10)
    eventually(lambda: store.asked, 10, "one asks")
    store.answering.set()
    for thread in threads:
        thread.join(20)
    assert found == [b"code"] * 8
    assert store.asked == [f"/v1/blobs/{digest}"]
    assert [path.name for path in files(tmp_path)] == [digest]


def test_what_nobody_asks_for_any_more_goes_and_can_be_fetched_again(store: Store, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs", lambda: Api(store.url, "secret"))
    digests = [digest_of(content) for content in (b"old", b"used")]
    store.blobs |= dict(zip(digests, (b"old", b"used"), strict=True))
    for digest in digests:
        os.utime(blobs.path(digest), (0, 0))
    assert blobs.read(digests[1]) == b"used"
    large = tmp_path / "blobs" / "aa" / ("a" * 64)
    large.parent.mkdir(exist_ok=True)
    large.write_bytes(b"x" * (MAX_ARGS_BYTES + 1))
    an_hour_ago = time.time() - LARGE_SECONDS - 60
    os.utime(large, (an_hour_ago, an_hour_ago))
    blobs.sweep(7 * 86_400)
    assert not large.exists(), "the args of one run"
    blobs.sweep(3600)
    assert [path.name for path in files(tmp_path)] == digests[1:]
    assert blobs.read(digests[0]) == b"old"
    Blobs(tmp_path / "blobs").sweep(-1)  # the API's own directory is not this spot's to clear
    assert len(files(tmp_path)) == 2


def test_a_copy_that_has_been_damaged_is_fetched_anew(store: Store, tmp_path: Path) -> None:
    blobs, digest = Blobs(tmp_path / "blobs", lambda: Api(store.url, "secret")), digest_of(b"code")
    store.blobs[digest] = b"code"
    for use in (blobs.read, blobs.checked):
        blobs.path(digest).write_bytes(b"rotten")
        with pytest.raises(BlobError, match="damaged"):
            use(digest)
        assert blobs.read(digest) == b"code"


@pytest.mark.parametrize("content", [b"other", None])
def test_what_is_not_what_its_digest_says_leaves_nothing_behind(
    store: Store, tmp_path: Path, content: bytes | None
) -> None:
    blobs = Blobs(tmp_path / "blobs", lambda: Api(store.url, "secret"))
    digest = digest_of(b"code")
    if content is not None:
        store.blobs[digest] = content
    with pytest.raises(BlobError):
        blobs.read(digest)
    assert files(tmp_path) == []


def test_a_refusal_and_a_dead_api_are_told(store: Store) -> None:
    with pytest.raises(RemoteError, match="no such") as refused, open(os.devnull, "wb") as nowhere:
        Api(store.url, "wrong").fetch("0" * 64, nowhere)
    assert refused.value.status == 401
    with pytest.raises(RemoteError, match="cannot be reached") as away:
        Api("http://127.0.0.1:9", "secret").join("10.0.0.2", "key")
    assert away.value.status == 0


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with PackageIndex() as index:
        index.wheel("greeter", "1.0", {"greeter/__init__.py": "WORD = 'hello'\n", "greeter/data.bin": "x" * 100_000})
        yield index


def test_an_environment_travels_by_its_archive_without_an_index(
    store: Store, index: PackageIndex, tmp_path: Path
) -> None:
    interpreters = discover(dict(os.environ))
    python = next(iter(interpreters))
    here, there = (
        Environments(tmp_path / name / "environments", tmp_path / name / "cache", interpreters, environ=environ)
        for name, environ in (("here", {"UV_DEFAULT_INDEX": index.url}), ("there", {"UV_OFFLINE": "1"}))
    )
    request = BuildRequest(
        execution_id="b", attempt=1, token="t", deployment="d", version=1, version_id="v", requirements="greeter",
        python=python,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    outcome = here.build(request, lambda _: None, lambda: False, deadline)
    assert outcome.environment is not None
    assert outcome.lock is not None

    def blobs(name: str) -> Blobs:
        return Blobs(tmp_path / name / "blobs", lambda: Api(store.url, "secret"))

    archive = Archives(blobs("here"), here).keep(outcome.environment)
    assert archive == digest_of(store.blobs[archive or ""])
    assert Archives(blobs("here"), here).keep(outcome.environment) == archive
    lock = digest_of(outcome.lock.encode())
    store.blobs[lock] = outcome.lock.encode()
    spec = SandboxSpec(
        version_id="v", deployment="d", version=1, runtime="sandbox", python=python, code="c", lock=lock,
        environment=outcome.environment, archive=archive,
    )  # fmt: skip
    assert Archives(blobs("there"), there).installed(spec, None, deadline) == spec, "it has the same name there"
    path = there.path(outcome.environment)
    site = path / interpreters[python].site_packages
    assert (site / "greeter" / "__init__.py").read_text() == "WORD = 'hello'\n"
    assert os.readlink(path / "bin" / "python") == interpreters[python].inside
    assert [entry.name for entry in (tmp_path / "there" / "environments").glob(".new-*")] == []


def test_a_bad_archive_does_not_keep_its_lock_from_being_installed(index: PackageIndex, tmp_path: Path) -> None:
    """What is in it is another spot's word; the lock says with hashes what belongs there."""
    interpreters = discover(dict(os.environ))
    python = next(iter(interpreters))
    here, there = (
        Environments(tmp_path / n / "environments", tmp_path / n / "cache", interpreters, environ=environ)
        for n, environ in (("here", {"UV_DEFAULT_INDEX": index.url}), ("there", {"UV_DEFAULT_INDEX": index.url}))
    )
    request = BuildRequest(
        execution_id="b", attempt=1, token="t", deployment="d", version=1, version_id="v", requirements="greeter",
        python=python,
    )  # fmt: skip
    outcome = here.build(request, lambda _: None, lambda: False, time.monotonic() + 60)
    assert outcome.environment is not None
    assert outcome.lock is not None
    (tmp_path / "file").write_bytes(gzip.compress(b"\0\0\0\2{}"))
    packed = Packed(name=outcome.environment, file=tmp_path / "file")
    path = there.ensure(outcome.lock, python, time.monotonic() + 60, None, packed)
    assert (path / interpreters[python].site_packages / "greeter" / "__init__.py").read_text() == "WORD = 'hello'\n"


def test_an_archive_that_cannot_be_had_is_none(store: Store, tmp_path: Path) -> None:
    environments = Environments(tmp_path / "environments", tmp_path / "cache", {}, environ={})
    archives = Archives(Blobs(tmp_path / "blobs", lambda: Api(store.url, "secret")), environments)
    spec = SandboxSpec(version_id="v", deployment="d", version=1, runtime="sandbox", python="3.12", code="c")
    assert archives.of(spec) is None
    known = {name: getattr(spec, name) for name in SandboxSpec.__slots__}
    assert archives.of(SandboxSpec(**{**known, "environment": "e" * 32, "archive": "0" * 64})) is None
    assert archives.keep("e" * 32) is None


@pytest.mark.parametrize("content", [b"no archive", gzip.compress(b"\0\0\0\2{}"), gzip.compress(b"x" * 100)[:-20]])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "new").mkdir()
    with pytest.raises(BuildError):
        unpacked(Packed(name="e", file=tmp_path / "file"), tmp_path / "new")


def test_what_is_the_hosts_own_is_not_packed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "python").symlink_to("/python/bin/python3.12")
    (tree / "bin" / "tool").write_text("#!/env/bin/python\n")
    (tree / "pyvenv.cfg").write_text("home = /python/bin\n")
    with (tmp_path / "file").open("w+b") as file:
        assert pack(tree, file) == digest_of((tmp_path / "file").read_bytes())
    (tmp_path / "new").mkdir()
    unpacked(Packed(name="e", file=tmp_path / "file"), tmp_path / "new")
    assert [path.relative_to(tmp_path / "new").as_posix() for path in files(tmp_path / "new")] == ["bin/tool"]


def test_large_args_are_not_fetched_where_the_disk_is_nearly_full(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, digest = Blobs(tmp_path / "blobs", lambda: Api(store.url, "secret")), digest_of(b"args")
    store.blobs[digest] = b"args"
    monkeypatch.setattr("faaspot_runner.blobs.KEPT_FREE", 1.0)
    with pytest.raises(BlobError, match="nearly full"):
        blobs.opened(digest, 4)
    assert store.asked == []
    monkeypatch.undo()
    with blobs.opened(digest, 4) as file:
        assert file.read() == b"args"
    monkeypatch.setattr("faaspot_runner.blobs.KEPT_FREE", 1.0)
    with blobs.opened(digest, 4) as file:
        assert file.read() == b"args", "it is here"
