"""`fas up`: checks, then everything in its order, then watches until it is told to stop, then all down in order.

Nothing is made before the checks have passed: a port in use or a foreign directory leaves no trace.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from ipaddress import ip_address
from urllib.parse import urlsplit

from faaspot_api.queue import embedded
from faaspot_api.queue.embedded import ServerMissingError
from faaspot_api.settings import Settings
from faaspot_api.supervisor import bucket, door, listener, restart, tls
from faaspot_api.supervisor.directory import DataDirectory, data_directory
from faaspot_api.supervisor.errors import CannotStartError
from faaspot_api.supervisor.logs import say
from faaspot_api.supervisor.platform import Platform, Way
from faaspot_api.supervisor.privileges import NotPreparedError, Plan, die_with_parent
from faaspot_api.supervisor.programs import Programs
from faaspot_api.supervisor.rights import check_rights
from faaspot_runner.contract.sentinels import sentinels

CANNOT_START = 2
TOKEN_LETTERS = 16
"""A token that is said must have so many: a shorter one can be guessed."""
TOKEN_PREFIX = "fas_"  # noqa: S105 (makes a leaked token easy to find, is no secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What the caller of `up` is told, as one JSON line. `first_token`: the token was made by this start."""

    url: str
    token: str
    first_token: bool
    data_dir: str

    def line(self) -> bytes:
        values = {"url": self.url, "token": self.token, "first_token": self.first_token, "data_dir": self.data_dir}
        return json.dumps(values).encode() + b"\n"


def up(settings: Settings, *, ready_fd: int | None = None, parent: int | None = None) -> int:
    """Run the platform until a signal; the exit status: 0 stopped as told, 2 could not start (one line says why).

    `ready_fd` gets the line of `Ready`. At the end of `parent`, our parent process, all stops at once: whoever started
    us was killed, and the next start shall not have to wait for runs that nobody waits for.
    """
    signal.signal(restart.ASK, lambda *_: None)  # nothing to replace yet; without a handler it would kill us
    try:
        if parent is not None:
            stop_with_parent(parent)
        with ExitStack() as held:
            try:
                prepared = _prepare(settings, held)
            except OSError as error:
                raise CannotStartError(f"{settings.data_dir} cannot be used: {error}") from error
            return asyncio.run(_run(prepared, ready_fd))
    except (CannotStartError, NotPreparedError) as error:
        say(str(error))
        return CANNOT_START


def stop_with_parent(parent: int) -> None:
    """Ask the kernel for `_Stop.ORPHANED` when `parent` dies. Raises NotPreparedError if it has already."""
    die_with_parent(Plan(parent=parent, death_signal=_Stop.ORPHANED))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """Everything that a start needs before its first process."""

    platform: Platform
    ready: Ready
    warning: str | None


def _prepare(settings: Settings, held: ExitStack) -> _Prepared:
    check_rights()
    directory = data_directory(settings)
    certificate = tls.certificate(settings)
    _check_redis(settings)
    _check_door(settings)
    _check_token(settings)
    _check_otel(settings)
    directory.inspect()
    # What exists is claimed first, for "in use" is the better message; what does not is made last.
    lock = held.enter_context(directory.claimed()) if directory.marker.exists() else None
    sock = held.enter_context(listener.listen(settings.host, settings.port))
    lock = held.enter_context(directory.claimed()) if lock is None else lock
    directory.furnish(own_redis=settings.own_redis)
    bucket.claim(settings, directory)
    directory.clear_run()
    if certificate is not None:
        certificate = tls.handed_over(certificate, directory)
        held.callback(directory.clear_run)
        settings = replace(settings, certfile=str(certificate.certfile), keyfile=str(certificate.keyfile))
    server, way = None, None
    if settings.own_redis:
        password = directory.password.read_text().strip()
        server = embedded.prepare(
            directory.path / "redis",
            password,
            fsync=settings.redis_fsync,
            memory=settings.redis_memory,
            uid=directory.uid,
        )
        held.callback(embedded.forget, server)
        settings = replace(settings, redis_socket=str(server.socket))
        if settings.spots_listen:
            way = Way(
                sock=held.enter_context(listener.listen(*door.place(settings.spots_listen), "--spots-listen")),
                certificate=tls.handed_over(door.certificate(directory), directory, "redis-"),
            )
    token, first = _token(settings, directory)
    url = listener.url(sock, settings.host, tls=certificate is not None)
    programs = Programs(settings=settings, directory=directory, certificate=certificate)
    return _Prepared(
        platform=Platform(programs, directory, server, sock, lock, way),
        ready=Ready(url=url, token=token, first_token=first, data_dir=str(directory.path)),
        warning=_exposure(settings, sock),
    )


async def _run(prepared: _Prepared, ready_fd: int | None) -> int:
    platform, ready, stop = prepared.platform, prepared.ready, _Stop()
    stop.listen()
    asyncio.get_running_loop().add_signal_handler(restart.ASK, platform.restart)
    stopping = asyncio.create_task(stop.asked.wait())
    starting = asyncio.create_task(platform.start(ready.token, ready.url))
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            platform.keep_token(ready.token)
            if prepared.warning is not None:
                say(prepared.warning)
            _tell(ready, ready_fd)
            await stopping
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.wait({starting, stopping})
        await platform.stop(stop.hastened)
        stop.deafen()
    return 0


class _Stop:
    """SIGTERM, SIGINT and SIGHUP: the first asks to stop, one that comes later than a moment after it to be quick.

    `ORPHANED`, the kernel's word that our parent has died, asks for both at once. Before `listen` it ends us.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    ORPHANED = signal.SIGUSR1
    SAME_SECONDS = 1.0
    """A Ctrl-C reaches `fas up` and us, and `fas up` passes it on: within this they count as one."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hastened = asyncio.Event()
        self._first = 0.0

    def listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in self.SIGNALS:
            loop.add_signal_handler(number, self._hear)
        loop.add_signal_handler(self.ORPHANED, self._hear_of_the_parent)

    def deafen(self) -> None:
        """All is down: a late signal shall not turn the end into a death by signal."""
        signal.pthread_sigmask(signal.SIG_BLOCK, (*self.SIGNALS, self.ORPHANED, restart.ASK))

    def _hear(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self.asked.is_set():
            self._first = now
            self.asked.set()
        elif now - self._first > self.SAME_SECONDS:
            self.hastened.set()

    def _hear_of_the_parent(self) -> None:
        self.asked.set()
        self.hastened.set()


def _check_redis(settings: Settings) -> None:
    if settings.own_redis:
        try:
            embedded.find_binary()
        except ServerMissingError as error:
            raise CannotStartError(str(error)) from None
        return
    try:
        if sentinels(settings.redis_url) is not None:
            return
    except ValueError as error:
        raise CannotStartError(f"--redis-url: {error}") from None
    if not settings.redis_url.startswith(("redis://", "rediss://", "unix://")):
        raise CannotStartError("--redis-url begins with redis://, rediss://, unix:// or redis+sentinel://")
    try:
        _ = urlsplit(settings.redis_url).port
    except ValueError:
        raise CannotStartError("--redis-url has a port that is no number: redis://HOST:PORT/DATABASE") from None


def _check_door(settings: Settings) -> None:
    if settings.spots_listen and not settings.own_redis:
        raise CannotStartError("--spots-listen is for the private Redis; beside --redis-url say --spots-redis-url")
    if settings.spots_listen:
        door.place(settings.spots_listen)


def _check_otel(settings: Settings) -> None:
    if settings.otel and find_spec("opentelemetry") is None:
        raise CannotStartError("--otel needs OpenTelemetry: in a clone of faaspot, pip install -e '.[otel]'")


def _check_token(settings: Settings) -> None:
    if settings.token and len(settings.token) < TOKEN_LETTERS:
        raise CannotStartError(
            f"--token has {len(settings.token)} characters, at least {TOKEN_LETTERS} are needed: it opens everything."
            " Leave it out, and one is made"
        )


def _exposure(settings: Settings, listening: socket.socket) -> str | None:
    """What a person should know about who can read along; None where nobody can, or a proxy is in front."""
    address = ip_address(listening.getsockname()[0].partition("%")[0])
    if address.is_loopback or settings.certfile or settings.trusted_proxies:
        return None
    return (
        f"warning: plain HTTP on {settings.host}: whoever is on the way can read tokens and contexts."
        " Give --certfile and --keyfile, or listen on 127.0.0.1 behind a proxy with TLS"
    )


def _token(settings: Settings, directory: DataDirectory) -> tuple[str, bool]:
    """The admin token's text, and whether this start makes it."""
    if settings.token:
        return settings.token, False
    if directory.admin_token.exists():
        return directory.admin_token.read_text().strip(), False
    return TOKEN_PREFIX + secrets.token_urlsafe(32), True


def _tell(ready: Ready, descriptor: int | None) -> None:
    """Say that the platform is ready to who started it, or at the console."""
    if descriptor is None:
        say(f"ready at {ready.url}, admin token in {ready.data_dir}/admin-token")
        return
    try:
        os.write(descriptor, ready.line())
        os.close(descriptor)
    except OSError as error:
        # Who asked for the line has gone; the platform is none the worse.
        say(f"the ready line could not be written: {error.strerror}")
