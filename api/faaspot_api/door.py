"""The door process: takes TLS connections of spots on other hosts and passes their bytes on to the private Redis.

It knows nothing of what goes through it; who may say what is Redis' to judge, by the spot's user. A connection whose
other end has gone without a word is closed within half a minute, so that no command waits for a dead spot.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from urllib.parse import unquote, urlsplit

from faaspot_api import log
from faaspot_api.settings import Settings

MOST_CONNECTIONS = 8192
HANDSHAKE_SECONDS = 10.0
IDLE_SECONDS, PROBE_SECONDS, PROBES = 10, 5, 3
LOST_MS = 20_000
"""How long what was sent may stay without an answer of the other end's kernel."""
PIECE = 64 * 1024


def serve(settings: Settings, descriptor: int) -> int:
    """Pass connections of the listening socket `descriptor` on until SIGTERM; the exit status."""
    log.configure(settings.log_level, "door")
    asyncio.run(_serve(settings, descriptor))
    return 0


async def _serve(settings: Settings, descriptor: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.certfile, settings.keyfile)
    door = _Door(unquote(urlsplit(settings.redis).path))
    server = await asyncio.start_server(
        door.enter,
        sock=socket.socket(fileno=descriptor),
        ssl=context,
        ssl_handshake_timeout=HANDSHAKE_SECONDS,
        limit=PIECE,
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with server:
        await stop.wait()
        server.close()
        door.close()


class _Door:
    """Every connection that is open."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._open: set[asyncio.Task[None]] = set()

    async def enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its handshake to its end."""
        task = asyncio.current_task()
        if task is None or len(self._open) >= MOST_CONNECTIONS:
            writer.close()
            return
        self._open.add(task)
        try:
            _watch_over(writer.get_extra_info("socket"))
            await self._pass_on(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._open.discard(task)

    def close(self) -> None:
        """End them all."""
        for task in tuple(self._open):
            task.cancel()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, inside = await asyncio.open_unix_connection(self._path, limit=PIECE)
        ways = [asyncio.create_task(_copy(reader, inside)), asyncio.create_task(_copy(inner, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (inside, writer):
                end.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until either end closes or breaks."""
    with contextlib.suppress(OSError):
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()


def _watch_over(sock: socket.socket) -> None:
    """Have the kernel find out when the other end is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_MS)
