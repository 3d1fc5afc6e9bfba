"""The I/O over real sockets: who we say we are, and what becomes of every way in which a network fails."""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from pathlib import Path

import httpx2
import pytest

from faaspot import AsyncFaaspot, Faaspot, _transport
from faaspot.config import Profile
from faaspot.errors import AnswerTimedOut, BadAnswer, BadArgument, ConfigError, ConnectionFailed, FaaspotError
from tests.unit.sdk.served import Served, rude, unused_port


def ask(url: str, timeout: float = 5.0) -> object:
    with Faaspot(host=url, token="t", timeout=timeout) as faaspot:
        return faaspot.deployments.delete("x")


def ask_async(url: str, timeout: float = 5.0) -> object:
    async def talk() -> object:
        async with AsyncFaaspot(host=url, token="t", timeout=timeout) as faaspot:
            return await faaspot.deployments.delete("x")

    return asyncio.run(talk())


both = pytest.mark.parametrize("asking", [ask, ask_async], ids=["sync", "async"])


@both
def test_a_refused_connection_says_so_and_what_to_do(asking: type[object]) -> None:
    url = f"http://127.0.0.1:{unused_port()}"

    with pytest.raises(ConnectionFailed, match=r"Failed to connect to FaaSpot server\. ") as caught:
        asking(url)
    assert url in caught.value.message
    assert "fas up" in (caught.value.hint or "")


@both
def test_a_server_that_hangs_up_is_a_failed_connection(asking: type[object]) -> None:
    for said in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b"SSH-2.0-OpenSSH_9.2\r\n"):
        with rude(said) as url, pytest.raises(ConnectionFailed):
            asking(url)


@both
def test_an_answer_that_does_not_come_is_a_timeout(asking: type[object], platform: Served) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(AnswerTimedOut):
        asking(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.05)


@both
def test_another_service_at_the_address_is_a_bad_answer(asking: type[object]) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\n<p>hi</p>"

    with rude(page) as url, pytest.raises(BadAnswer, match="<p>hi</p>"):
        asking(url)


@both
def test_a_token_with_strange_characters_is_refused_before_anything_is_sent(asking: type[object]) -> None:
    with pytest.raises(ConfigError, match="token"):
        Faaspot(host="http://127.0.0.1:1", token="a\nb").spots.list()


def test_every_error_of_the_http_library_becomes_one_of_ours() -> None:
    def leaves(kind: type[Exception]) -> list[type[Exception]]:
        found = [kind]
        for each in kind.__subclasses__():
            found += leaves(each)
        return found

    for kind in [*leaves(httpx2.RequestError), httpx2.InvalidURL]:
        with pytest.raises(FaaspotError), _transport.translated("http://h/api/"):
            raise kind("lower")


def test_the_token_wins_over_user_and_password() -> None:
    basic = {"Authorization": "Basic " + base64.b64encode("bob:p?>ü".encode()).decode()}

    assert _transport.authorisation(Profile(username="bob", password="p?>ü")) == basic
    assert _transport.authorisation(Profile(username="bob", password="x", token="T")) == {"Authorization": "Token T"}
    assert _transport.authorisation(Profile(username="bob")) == {}


def test_certificates_are_checked_unless_the_profile_says_to_trust_all(tmp_path: Path) -> None:
    assert _transport._verification(Profile(), "https://x") is True
    assert _transport._verification(Profile(ssl_trust_all=True), "https://x") is False
    with pytest.raises(ConfigError, match="Cannot use the certificate"):
        _transport._verification(Profile(ssl_certificate=str(tmp_path / "none.pem")), "https://x")
    authority = ssl.get_default_verify_paths().cafile or ssl.get_default_verify_paths().openssl_cafile
    if Path(authority).exists():
        assert isinstance(_transport._verification(Profile(ssl_certificate=authority), "https://x"), ssl.SSLContext)


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    platform: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)

    with Faaspot(host=platform.url, token=platform.token) as faaspot:
        assert faaspot.deployments.list() == []


def test_the_log_names_each_request_and_never_the_token(platform: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="faaspot"), Faaspot(host=platform.url, token=platform.token) as faaspot:
        faaspot.spots.list()

    assert f"GET {platform.url}/api/spots/ -> 200" in caplog.text
    assert platform.token not in "".join(record.getMessage() for record in caplog.records if record.name == "faaspot")


def test_args_in_a_file_are_sent_as_they_stand(platform: Served, tmp_path: Path) -> None:
    file = tmp_path / "args.json"
    file.write_bytes(b'{"s": "' + b"x" * (9 << 20) + b'"}')
    code = "def main(args, context):\n    return 1\n"
    with Faaspot(host=platform.url, token=platform.token) as faaspot:
        faaspot.deployments.create("big", code=code)
        run = faaspot.deployments.run("big", file)
        assert faaspot.executions.get(run).args_size == file.stat().st_size
        assert faaspot.executions.args(run) == {"x": "x" * 92}, "as the fake has them"
        with pytest.raises(BadArgument, match="No such file"):
            faaspot.deployments.run("big", tmp_path / "none")

    async def talk() -> int | None:
        async with AsyncFaaspot(host=platform.url, token=platform.token) as faaspot:
            found = await faaspot.executions.get(await faaspot.deployments.run("big", file))
            assert await faaspot.executions.args(found) == {"x": "x" * 92}
            return found.args_size

    assert asyncio.run(talk()) == file.stat().st_size
