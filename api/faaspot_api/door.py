"""The door process: takes TLS connections of spots on other hosts and passes their bytes on to Redis.

Who may say what is Redis' to judge, by the spot's user. All that is looked at here is Redis' first answer: who does not
begin with a password that it takes is shown out again, so that strangers cannot take up the connections that Redis has
for everybody. A connection whose other end has gone without a word is closed within half a minute, so that no command
waits for a dead spot.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
import ssl
from urllib.parse import unquote, urlsplit

from faaspot_api import log
from faaspot_api.settings import Settings

MOST_CONNECTIONS = 8192
MOST_STRANGERS = 512
STRANGER_SECONDS = 10.0
"""How long who has come in may be without Redis' word that it knows him."""
HANDSHAKE_SECONDS = 10.0
IDLE_SECONDS, PROBE_SECONDS, PROBES = 10, 5, 3
LOST_MS = 20_000
"""How long what was sent may stay without an answer of the other end's kernel."""
PIECE = 64 * 1024
REDIS_PORT = 6379
WELCOMES = (b"+OK", b"*", b"%")
"""How the answer to a good AUTH or HELLO begins. To a stranger's other commands it is an error, or RESET."""


def serve(settings: Settings, descriptor: int) -> int:
    """Pass connections of the listening socket `descriptor` on until SIGTERM; the exit status."""
    log.configure(settings.log_level, "door")
    asyncio.run(pass_on(settings, descriptor))
    return 0


async def pass_on(settings: Settings, descriptor: int) -> None:
    """The same within an event loop."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.certfile, settings.keyfile)
    door = _Door(settings.redis)
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
    """Every connection that is open. `url`: of the Redis behind it, at a unix socket or an address."""

    def __init__(self, url: str) -> None:
        self._behind = urlsplit(url)
        # Each is two descriptors here, and one of as many in Redis, whose other half is the platform's own.
        self._most = min(MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._open: set[asyncio.Task[None]] = set()
        self._strangers: set[asyncio.Task[None]] = set()

    async def enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its handshake to its end."""
        task = asyncio.current_task()
        if task is None or len(self._open) >= self._most or len(self._strangers) >= MOST_STRANGERS:
            writer.transport.abort()
            return
        self._open.add(task)
        self._strangers.add(task)
        try:
            _watch_over(writer.get_extra_info("socket"))
            await self._pass_on(reader, writer, task)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._open.discard(task)
            self._strangers.discard(task)

    def close(self) -> None:
        """End them all."""
        for task in tuple(self._open):
            task.cancel()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._behind.scheme == "unix":
            return await asyncio.open_unix_connection(unquote(self._behind.path), limit=PIECE)
        host, port = self._behind.hostname, self._behind.port or REDIS_PORT
        return await asyncio.open_connection(host, port, limit=PIECE)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None]
    ) -> None:
        inner, inside = await self._connected()
        ways = [asyncio.create_task(_copy(reader, inside)), asyncio.create_task(self._answer(inner, writer, task))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            inside.transport.abort()
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):  # a refusal is still to be read
                async with asyncio.timeout(1):
                    await writer.wait_closed()
            writer.transport.abort()

    async def _answer(
        self, inner: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None]
    ) -> None:
        """What Redis says, until either end closes or breaks; its first answer only, if that is a refusal."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(STRANGER_SECONDS):
                first = await inner.read(PIECE)
                writer.write(first)
                await writer.drain()
            if first.startswith(WELCOMES):
                self._strangers.discard(task)
                await _copy(inner, writer)


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
