"""The running platform: which children, in what order up and down."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from faaspot_api.errors import Unavailable
from faaspot_api.queue.embedded import Embedded
from faaspot_api.supervisor import restart
from faaspot_api.supervisor.admission import Admissions
from faaspot_api.supervisor.children import Child, Program
from faaspot_api.supervisor.directory import DataDirectory
from faaspot_api.supervisor.errors import CannotStartError
from faaspot_api.supervisor.logs import ChildLog, say
from faaspot_api.supervisor.programs import Programs, is_compiled
from faaspot_api.supervisor.spots import LocalSpots, RequestRefusedError
from faaspot_api.supervisor.tls import Certificate

if TYPE_CHECKING:
    from faaspot_api.queue.requests import SpotRequests

POLL_SECONDS = 0.01
START_SECONDS = 90.0
"""Longest start: loading a large Redis log, a migration, the first import of everything on a slow disk."""
HEAD_START = 1.0
"""How long the web processes drain alone; who waits for a run in flight still needs its spot."""
QUIET_SECONDS = 0.5
"""A stop that is over sooner needs no words."""
SPOT_EXTRA, RECORDER_SECONDS, REDIS_SECONDS = 5.0, 10.0, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How spots of other hosts come to the private Redis: the listening socket, and the certificate shown there."""

    sock: socket.socket
    certificate: Certificate


class Platform:
    """The children of one data directory. `way`: None if no other host is let to Redis by us."""

    def __init__(
        self,
        programs: Programs,
        directory: DataDirectory,
        server: Embedded | None,
        sock: socket.socket,
        lock: int,
        way: Way | None = None,
    ) -> None:
        self._programs = programs
        self._directory = directory
        self._server = server
        self._socket = sock
        self._lock = lock
        self._way = way
        self._settings = programs.settings
        self._children: dict[str, Child] = {}
        self._spot_children: dict[str, Child] = {}
        self._hasten = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._requests: SpotRequests | None = None
        self._spots: LocalSpots | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._leaving: Child | None = None
        self._token = ""

    # ------------------------------------------------------------ up

    def _say(self, text: str) -> None:
        """Tell a person what happens to a child; a start that fails has one line of its own."""
        if self._serving is not None:
            say(text)

    async def start(self, token: str, url: str) -> None:
        """Returns when /healthz answers, the wanted spots are there and ends are recorded. Raises CannotStartError."""
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._start(token, url)
        except TimeoutError:
            raise CannotStartError(
                f"the platform was not ready within {START_SECONDS:g} s: see the logs in {self._directory.logs}"
            ) from None
        except RequestRefusedError as error:
            raise CannotStartError(str(error)) from None
        except Unavailable as error:
            where = "" if self._settings.own_redis else f"--redis-url {self._settings.redis}: "
            raise CannotStartError(f"{where}{error}") from None

    async def _start(self, token: str, url: str) -> None:
        if self._directory.uid is not None and not is_compiled():
            await self._make("bytecode", self._programs.bytecode()).run_to_end()
        # The slowest first. Each waits by itself for what it needs of the others.
        self._token = token
        web = self._run("gunicorn", self._programs.web(self._socket.fileno(), token))
        recorder = self._run("recorder", self._programs.recorder())
        await self._start_redis()
        spots = await self._start_spots()
        await _or_failed(_healthy(url), web, recorder)
        for ip in spots.addresses:
            await spots.registered(ip)
        await _or_failed(self._recording(), recorder)
        self._spots = spots
        self._serving = asyncio.create_task(spots.serve())

    async def _start_redis(self) -> None:
        if self._server is None:
            return
        child = self._run("redis", self._programs.redis(self._server, self._lock))
        await _or_failed(_answers(self._server.url, self._settings.redis_secret() or ""), child)
        if self._way is not None:
            self._run("door", self._programs.door(self._way.sock.fileno(), self._way.certificate))

    async def _start_spots(self) -> LocalSpots:
        from faaspot_api.queue.requests import SpotRequests
        from faaspot_api.queue.users import SpotUsers

        self._requests = SpotRequests.open(self._settings, say)
        admissions = Admissions(self._settings, self._directory, SpotUsers.open(self._settings))
        spots = LocalSpots(self._directory, self._settings.local_spots, self._requests, self, admissions)
        await spots.start()
        return spots

    async def _recording(self) -> None:
        """Returns when the recorder has told that it can record."""
        while self._requests is not None and not await asyncio.to_thread(self._requests.recording):
            await asyncio.sleep(POLL_SECONDS)

    def keep_token(self, token: str) -> None:
        """Keep the admin token's text where only the owner of the data directory can read it."""
        if not self._directory.admin_token.exists() or self._directory.admin_token.read_text().strip() != token:
            self._directory.write("admin-token", f"{token}\n".encode(), 0o600)

    # ------------------------------------------------------------ spots, for LocalSpots

    def start_spot(self, ip: str) -> None:
        """See `SpotRunner.start_spot`."""
        if ip not in self._spot_children:
            child = self._make(f"spot-{ip}", self._programs.spot(ip, os.getpid()))
            self._spot_children[ip] = child
            child.start()

    async def stop_spot(self, ip: str) -> None:
        """See `SpotRunner.stop_spot`."""
        child = self._spot_children.pop(ip, None)
        if child is not None:
            await child.stop(self._settings.grace + SPOT_EXTRA, self._hasten)
            child.log.close()

    def failure(self, ip: str) -> str | None:
        """See `SpotRunner.failure`."""
        child = self._spot_children.get(ip)
        return child.failed.result() if child is not None and child.failed.done() else None

    # ------------------------------------------------------------ all anew, while it serves

    def restart(self) -> None:
        """Replace the children by new ones in the background, unless that is under way. See `restart.py`."""
        if self._serving is None:
            restart.tell(self._directory, "", "the platform is still starting: ask again when it is ready")
        elif self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        done, problem = "", None
        try:
            await self._renew_web()
            await self._replace("recorder", self._programs.recorder)
            spots = await self._spots.renew() if self._spots is not None else 0
            done = f"web processes, recorder and {'1 spot' if spots == 1 else f'{spots} spots'} are new"
        except (CannotStartError, RequestRefusedError, Unavailable, TimeoutError, OSError) as error:
            problem = f"not all was replaced: {str(error) or 'it took too long'}"
        say(problem or done)
        restart.tell(self._directory, done, problem)

    async def _renew_web(self) -> None:
        """The new processes take requests before the old ones stop to; those answer what they have."""
        descriptor = self._socket.fileno()
        await self._replace("gunicorn", lambda ready: self._programs.web(descriptor, self._token, ready))

    async def _replace(self, name: str, program: Callable[[int | None], Program]) -> None:
        """Start `program` beside the child `name`, and stop that when the new one works.

        `program` gets the descriptor into which it writes then. Raises CannotStartError or TimeoutError: the old one is
        kept.
        """
        reader, writer = os.pipe()
        ready = asyncio.get_running_loop().run_in_executor(None, os.read, reader, 1)
        new = Child(program(writer), self._children[name].log, self._say)
        new.start()
        try:
            async with asyncio.timeout(START_SECONDS):
                await _or_failed(_first(ready), new)
        except (CannotStartError, TimeoutError, asyncio.CancelledError):
            await new.stop(0, asyncio.Event())
            raise
        finally:
            os.close(writer)
            await ready  # with no writer left the read is over
            os.close(reader)
        new.program = program(None)
        self._leaving, self._children[name] = self._children[name], new
        await self._leave()

    async def _leave(self) -> None:
        """Have what was replaced do what it has begun, and end."""
        if self._leaving is not None:
            await self._leaving.stop(self._settings.grace + 2, self._hasten)
            self._leaving = None

    # ------------------------------------------------------------ down

    async def stop(self, hasten: asyncio.Event) -> None:
        """Web first, then spots, then who records what they report, then Redis; when it returns nothing is left."""
        self._directory.say_stopping(self._lock)
        passing_on = asyncio.create_task(self._pass_on(hasten))
        telling = asyncio.create_task(self._tell_of_runs())
        for task in (self._serving, self._renewing):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        grace = self._settings.grace
        web: asyncio.Future[Any] = asyncio.gather(self._leave(), self._stop_child("gunicorn", grace + 2))
        hurried = asyncio.create_task(self._hasten.wait())
        await asyncio.wait({web, hurried}, timeout=HEAD_START, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*(self.stop_spot(ip) for ip in list(self._spot_children)))
        await web
        hurried.cancel()
        telling.cancel()
        self._socket.close()
        await self._stop_child("recorder", RECORDER_SECONDS)
        if self._requests is not None:
            await asyncio.to_thread(self._requests.close)
        await self._stop_child("door", RECORDER_SECONDS)
        await self._stop_child("redis", REDIS_SECONDS)
        await self._stop_child("bytecode", 0)
        passing_on.cancel()

    async def _tell_of_runs(self) -> None:
        """Say once why the stop takes its time: runs are in flight."""
        grace = self._settings.grace
        while self._requests is not None and grace > 0:
            await asyncio.sleep(QUIET_SECONDS)
            with contextlib.suppress(Unavailable):
                if running := await asyncio.to_thread(self._requests.running):
                    runs = "1 run" if running == 1 else f"{running} runs"
                    say(f"waiting for {runs}, up to {grace:g} s; Ctrl-C again stops now")
                    return

    async def _pass_on(self, hasten: asyncio.Event) -> None:
        await hasten.wait()
        self._hasten.set()

    async def _stop_child(self, name: str, seconds: float) -> None:
        child = self._children.pop(name, None)
        if child is not None:
            # Redis and the recorder keep what counts, and need no hastening: they are quick.
            hasten = self._hasten if name == "gunicorn" else asyncio.Event()
            await child.stop(seconds, hasten)
            child.log.close()

    def _run(self, name: str, program: Program) -> Child:
        child = self._make(name, program)
        child.start()
        return child

    def _make(self, name: str, program: Program) -> Child:
        child = Child(program, ChildLog(self._directory.logs / f"{name}.log"), self._say)
        if not name.startswith("spot-"):
            self._children[name] = child
        return child


async def _or_failed(work: Coroutine[Any, Any, None], *children: Child) -> None:
    """Wait for `work`; raises CannotStartError as soon as one of `children` is known never to work."""
    task = asyncio.create_task(work)
    failures = {child.failed for child in children}
    either: set[asyncio.Future[Any]] = {task, *failures}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise CannotStartError(next(failure.result() for failure in failures if failure.done()))
        task.result()
    finally:
        task.cancel()


async def _first(ready: asyncio.Future[bytes]) -> None:
    """Returns when a byte has come. It is not cancelled: a thread reads."""
    await asyncio.shield(ready)


async def _answers(url: str, password: str) -> None:
    """Returns when Redis answers with its data loaded."""
    # Here, because it takes a third of a second, in which the children just started get on with theirs.
    from faaspot_api.queue.clients import answers

    while not await asyncio.to_thread(answers, url, password):
        await asyncio.sleep(POLL_SECONDS)


async def _healthy(url: str) -> None:
    """Returns when /healthz has answered 200. The socket listens already: the request waits for who takes it."""
    parts = urlsplit(url)
    context = ssl._create_unverified_context() if parts.scheme == "https" else None  # noqa: S323 (it is ourselves)
    request = f"GET /healthz HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode()
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
            try:
                writer.write(request)
                if (await reader.readline()).split()[1:2] == [b"200"]:
                    return
            finally:
                writer.close()
        await asyncio.sleep(POLL_SECONDS)
