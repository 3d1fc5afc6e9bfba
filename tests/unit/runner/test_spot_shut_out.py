"""Redis knows a spot on another host no more: it refuses the password, or shows another certificate than was given."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from faaspot_api.supervisor import door
from faaspot_api.supervisor.directory import DataDirectory
from faaspot_runner.contract import SpotInfo
from faaspot_runner.settings import Settings
from faaspot_runner.spot import pulse
from faaspot_runner.spot.pulse import Heartbeat


def information(created: float, now: float) -> SpotInfo:
    return SpotInfo(
        ip="10.0.0.2", created=created, last_seen=now, status="online", runtimes=(), pythons={}, networks=(),
        limits="none",
    )  # fmt: skip


async def answered(answer: bytes, context: ssl.SSLContext | None, settings: Settings, beats: int) -> int:
    """How often a spot that beats some times takes itself for shut out by a server that always says that."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        found: list[int] = []
        client = pulse.connect(replace(settings, redis_url=settings.redis_url.format(port=port)))
        heart = Heartbeat(client, settings, information, lambda: found.append(1))
        for _ in range(beats):
            try:
                await heart.tell()
            except redis.RedisError as error:
                heart._take(error)
        await client.aclose()
        return len(found)


@pytest.mark.parametrize(("remote", "expected"), [(True, 2), (False, 0)])
@pytest.mark.parametrize("answer", [b"-WRONGPASS invalid username-password pair\r\n", b"-NOAUTH needed\r\n"])
def test_a_password_that_is_refused_shuts_out_who_can_ask_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, remote: bool, expected: int
) -> None:
    monkeypatch.setattr(pulse, "SHUT_OUT_SECONDS", -1.0)
    settings = Settings(
        data_dir=tmp_path, api="http://api" if remote else "", redis_url="redis://spot:x@127.0.0.1:{port}"
    )
    assert asyncio.run(answered(answer, None, settings, 2)) == expected


@pytest.mark.parametrize("own", [True, False])
def test_so_does_a_certificate_that_is_not_the_one_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    monkeypatch.setattr(pulse, "SHUT_OUT_SECONDS", -1.0)
    for name in ("given", "new"):
        (tmp_path / name).mkdir()
    pairs = [door.certificate(DataDirectory(path=tmp_path / name, uid=None)) for name in ("given", "new")]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pairs[0 if own else 1].certfile, pairs[0 if own else 1].keyfile)
    url = f"rediss://127.0.0.1:{{port}}?ssl_check_hostname=false&ssl_ca_certs={pairs[0].certfile}"
    settings = Settings(data_dir=tmp_path, api="http://api", redis_url=url)
    assert asyncio.run(answered(b"-LOADING data\r\n", context, settings, 2)) == (0 if own else 2)


def test_a_server_that_is_away_or_refuses_for_a_moment_does_not(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, api="http://api", redis_url="redis://spot:x@127.0.0.1:{port}")
    assert asyncio.run(answered(b"-WRONGPASS no\r\n", None, settings, 2)) == 0
    away = Settings(data_dir=tmp_path, api="http://api", redis_url="redis://127.0.0.1:9")
    assert asyncio.run(answered(b"", None, away, 2)) == 0
