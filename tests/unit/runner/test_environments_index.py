"""The relay of the package index: pages and the files on them, and nothing else, whatever is asked for."""

from __future__ import annotations

import array
import contextlib
import hashlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faaspot_runner.environments import page
from faaspot_runner.environments.index import Index, relayed
from tests.unit.runner.package_index import PackageIndex

SHA = "a" * 64
BASE = "https://index.example/simple/x/"


# ---------------------------------------------------------------- pages


def test_anchors_of_an_html_page_become_files() -> None:
    body = f"""<!DOCTYPE html><html><head><title>x</title></head><body>
    <a href="../../files/x-1.0.tar.gz#sha256={SHA}" data-requires-python="&gt;=3.8">x-1.0.tar.gz</a>
    <a href="https://files.example/x-1.0-py3-none-any.whl#md5=0"
       data-yanked="broken" data-core-metadata="sha256={SHA}">x</a>
    <a href="x-2.0-py3-none-any.whl" data-dist-info-metadata="true" data-yanked>x</a>
    <a name="no-href">no</a></body></html>"""
    first, second, third = page.parse(body.encode(), "text/html; charset=utf-8", BASE)
    assert first == page.File(
        name="x-1.0.tar.gz", url="https://index.example/files/x-1.0.tar.gz", sha256=SHA, requires_python=">=3.8"
    )
    assert (second.sha256, second.yanked, second.metadata) == (None, "broken", SHA)
    assert (third.url, third.metadata, third.yanked) == (BASE + "x-2.0-py3-none-any.whl", "", True)


def test_the_base_of_an_html_page_counts() -> None:
    body = b'<base href="https://cdn.example/a/"><a href="x-1.0.tar.gz">x</a>'
    assert page.parse(body, "text/html", BASE)[0].url == "https://cdn.example/a/x-1.0.tar.gz"


def test_a_json_page_is_read() -> None:
    file = {
        "filename": "x-1.0-py3-none-any.whl", "url": "../../f/x-1.0-py3-none-any.whl",
        "hashes": {"sha256": SHA, "md5": "0"},
        "requires-python": None, "yanked": False, "core-metadata": {"sha256": SHA}, "size": 1,
    }  # fmt: skip
    (found,) = page.parse(json.dumps({"files": [file]}).encode(), page.JSON, BASE)
    assert found == page.File(
        name="x-1.0-py3-none-any.whl", url="https://index.example/f/x-1.0-py3-none-any.whl", sha256=SHA, metadata=SHA
    )


@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/passwd", "ftp://x.example/x-1.tar.gz", "javascript:alert(1)", "/files/", "/files/%2e%2e",
        "/files/a%2fb", "/files/a%00b.whl", "/files/-rf", "/files/%0d%0aX.whl",
    ],
)  # fmt: skip
def test_strange_addresses_and_names_are_left_out(href: str) -> None:
    assert page.parse(f'<a href="{href}">x</a>'.encode(), "text/html", BASE) == ()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"files": 1}', b"\xff", b"nonsense"])
def test_what_is_no_json_page_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (any text will do: it is not shown)
        page.parse(body, page.JSON, BASE)


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: f"<a href='{text}' {text}>".encode()))
def test_any_html_is_read_without_a_crash(body: bytes) -> None:
    assert isinstance(page.parse(body, "text/html", BASE), tuple)


def test_what_is_rendered_reads_back_as_the_same() -> None:
    files = (
        page.File(name="x-1.tar.gz", url=BASE + "0/x-1.tar.gz", sha256=SHA, requires_python=">=3", yanked="why"),
        page.File(name="x-1-py3-none-any.whl", url=BASE + "0/x-1-py3-none-any.whl", metadata=""),
        page.File(name="y-1-py3-none-any.whl", url=BASE + "0/y-1-py3-none-any.whl", metadata=SHA, yanked=True),
    )
    assert page.parse(page.render("x", files, lambda file: file.url), page.JSON, BASE) == files


# ---------------------------------------------------------------- the relay


@pytest.fixture
def upstream() -> Iterator[PackageIndex]:
    with PackageIndex() as served:
        served.wheel("alpha", "1.0")
        served.wheel("beta", "1.0")
        yield served


class Sandbox:
    """The far side of a relay: makes connections as a sandbox's helper hands them out."""

    def __init__(self, far: socket.socket) -> None:
        self._far = far

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            self._far.sendmsg([b"c"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))])
        ours.settimeout(10)
        return ours

    def get(self, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1")
        connection.sock = self.connect()
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def raw(self, data: bytes) -> bytes:
        with self.connect() as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = bytearray()
            with contextlib.suppress(ConnectionResetError):
                while block := connection.recv(65536):
                    answer += block
            return bytes(answer)


def accept(ours: socket.socket) -> socket.socket | None:
    """As `sandbox.launch.accept_relayed`, without its demand for TCP."""
    _, ancillary, _, _ = ours.recvmsg(16, socket.CMSG_SPACE(4))
    for _, _, data in ancillary:
        return socket.socket(fileno=array.array("i", data)[0])
    return None


@pytest.fixture
def sandbox(upstream: PackageIndex) -> Iterator[Sandbox]:
    index = Index([upstream.url], {}, time.monotonic() + 60)
    with relayed(index, accept) as far:
        yield Sandbox(far)
    index.close()


def files_of(sandbox: Sandbox, project: str) -> list[dict[str, object]]:
    status, body = sandbox.get(f"/simple/{project}/")
    assert status == 200
    files: list[dict[str, object]] = json.loads(body)["files"]
    return files


def test_a_page_and_the_files_on_it_are_served(sandbox: Sandbox, upstream: PackageIndex) -> None:
    (file,) = files_of(sandbox, "alpha")
    assert str(file["url"]).startswith("/files/")
    status, data = sandbox.get(str(file["url"]))
    assert status == 200
    assert {"sha256": hashlib.sha256(data).hexdigest()} == file["hashes"]
    assert upstream.asked == ["/simple/alpha/", "/files/alpha/alpha-1.0-py3-none-any.whl"]


def test_one_connection_may_ask_for_several_pages(sandbox: Sandbox) -> None:
    connection = http.client.HTTPConnection("127.0.0.1")
    connection.sock = sandbox.connect()
    with contextlib.closing(connection):
        for project, status in (("alpha", 200), ("missing", 404), ("beta", 200)):
            connection.request("GET", f"/simple/{project}/")
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status


def test_a_file_that_no_page_has_named_is_not_fetched(sandbox: Sandbox, upstream: PackageIndex) -> None:
    assert sandbox.get("/files/0/alpha-1.0-py3-none-any.whl")[0] == 404
    (file,) = files_of(sandbox, "alpha")
    upstream.asked.clear()
    url = str(file["url"])
    for path in (url + ".metadata", url.replace("alpha", "beta"), url.replace("/files/0", "/files/1"), url + "?x"):
        assert sandbox.get(path)[0] == 404
    assert upstream.asked == []


@pytest.mark.parametrize(
    "path",
    [
        "/", "/simple/", "/simple", "/simple/../secret/", "/simple/a%2fb/", "/simple/..%2f/", "/simple/a/b/",
        "/simple/Alpha/", "/simple/-/", "/simple/a?x=/", "/files/", "/files/x/y", "/files/0/", "/files/-1/x",
        "http://127.0.0.1:1/simple/alpha/", "//127.0.0.1/simple/alpha/", "/simple/alpha/\x7f",
        "/simple/" + "a" * 300 + "/",
    ],
)  # fmt: skip
def test_other_paths_reach_nothing(sandbox: Sandbox, upstream: PackageIndex, path: str) -> None:
    answer = sandbox.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode("latin-1"))
    assert answer.startswith(b"HTTP/1.1 4")
    assert upstream.asked == []


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "PATCH", "TRACE"])
def test_only_get_is_answered(sandbox: Sandbox, upstream: PackageIndex, method: str) -> None:
    answer = sandbox.raw(f"{method} /simple/alpha/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.split()[1] in (b"405", b"501")
    assert upstream.asked == []


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"GET", b"GET / HTTP/9.9\r\n\r\n", b"\xff" * 100_000, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10_000],
)
def test_what_is_no_http_ends_its_own_connection_only(sandbox: Sandbox, data: bytes) -> None:
    sandbox.raw(data)
    assert sandbox.get("/simple/alpha/")[0] == 200


def test_headers_of_the_sandbox_do_not_reach_the_index(sandbox: Sandbox, upstream: PackageIndex) -> None:
    assert sandbox.get("/simple/alpha/", headers={"Host": "evil.example", "Authorization": "Token t"})[0] == 200


def test_an_index_that_is_away_is_a_bad_gateway() -> None:
    index = Index(["http://127.0.0.1:9/simple"], {}, time.monotonic() + 60)
    with relayed(index, accept) as far:
        status, text = Sandbox(far).get("/simple/alpha/")
    index.close()
    assert status == 502
    assert b"127.0.0.1" not in text


def test_the_first_index_that_has_a_project_answers(upstream: PackageIndex) -> None:
    with PackageIndex() as other:
        other.wheel("alpha", "9.0")
        other.wheel("gamma", "1.0")
        index = Index([upstream.url + "/", other.url], {}, time.monotonic() + 60)
        with relayed(index, accept) as far:
            sandbox = Sandbox(far)
            names = [str(files_of(sandbox, project)[0]["filename"]) for project in ("alpha", "gamma")]
        index.close()
    assert names == ["alpha-1.0-py3-none-any.whl", "gamma-1.0-py3-none-any.whl"]


def test_a_build_whose_time_is_over_gets_nothing_more(upstream: PackageIndex) -> None:
    index = Index([upstream.url], {}, time.monotonic() - 1)
    with relayed(index, accept) as far:
        assert Sandbox(far).get("/simple/alpha/")[0] == 403
    index.close()
    assert upstream.asked == []


def test_a_build_that_asks_for_too_much_gets_nothing_more(
    upstream: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faaspot_runner.environments.index.MAX_REQUESTS", 2)
    index = Index([upstream.url], {}, time.monotonic() + 60)
    with relayed(index, accept) as far:
        sandbox = Sandbox(far)
        statuses = [sandbox.get("/simple/alpha/")[0] for _ in range(4)]
    index.close()
    assert statuses == [200, 200, 403, 403]


def test_a_file_past_the_limit_of_bytes_is_cut(upstream: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream.offer("big", "big-1.0.tar.gz", b"x" * 3_000_000)
    monkeypatch.setattr("faaspot_runner.environments.index.MAX_BYTES", 1_000_000)
    index = Index([upstream.url], {}, time.monotonic() + 60)
    with relayed(index, accept) as far:
        sandbox = Sandbox(far)
        url = str(files_of(sandbox, "big")[0]["url"])
        with pytest.raises(http.client.IncompleteRead):
            sandbox.get(url)
    index.close()


def test_idle_connections_do_not_hold_up_the_end(upstream: PackageIndex) -> None:
    index = Index([upstream.url], {}, time.monotonic() + 60)
    began = time.monotonic()
    with relayed(index, accept) as far:
        idle = [Sandbox(far).connect() for _ in range(100)]
    index.close()
    assert time.monotonic() - began < 5
    for connection in idle:
        connection.close()


def test_no_registry_is_named_in_the_source() -> None:
    """The default index is uv's own, asked for at run time."""
    import faaspot_runner.environments as package

    for path in Path(package.__path__[0]).rglob("*.py"):
        assert "pypi" not in path.read_text().lower().replace("vnd.pypi", "")
