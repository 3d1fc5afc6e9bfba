"""Local spots: which are wanted, kept through restarts; added, drained and replaced when the API asks.

`spots.json` in the data directory is written before the work and again before the end is reported, so that a request
that a dead supervisor left half done is done once more without a second effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Protocol

from faaspot_api.errors import Unavailable
from faaspot_api.supervisor.admission import Admissions, NotAdmittedError
from faaspot_api.supervisor.directory import DataDirectory
from faaspot_api.supervisor.errors import CannotStartError
from faaspot_api.supervisor.logs import say
from faaspot_runner.contract import Error, RunEnded, RunStarted, SpotRequest

if TYPE_CHECKING:
    from faaspot_api.queue.requests import SpotRequests

REGISTER_SECONDS = 60.0
"""How long a new spot may take until it tells of itself."""
LEASE_SECONDS = 300.0
RENEW_SECONDS = 60.0
"""A request's lease is renewed this often while it is worked on: a drain may take longer than any lease should."""
REMEMBERED = 50
"""Results of past requests that are kept."""
POLL_SECONDS = 0.02
TAKE_SECONDS = 1.0
AWAY_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A spot that shall run. `by`: the execution that asked for it; `leaving`: the one that asked it to go."""

    ip: str
    by: str | None = None
    leaving: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotFile:
    """The contents of spots.json. `results`: the address that each past execution ended with, oldest first."""

    spots: tuple[Wanted, ...]
    results: tuple[tuple[str, str], ...] = ()

    @classmethod
    def load(cls, directory: DataDirectory, first: int) -> SpotFile:
        """What was kept; in a new directory `first` spots. Raises CannotStartError if it cannot be read."""
        if not directory.spots.exists():
            return cls(spots=tuple(Wanted(ip=f"127.0.0.{number}") for number in range(1, first + 1)))
        try:
            data = json.loads(directory.spots.read_text())
            return cls(
                spots=tuple(Wanted(**spot) for spot in data["spots"]),
                results=tuple((name, ip) for name, ip in data["results"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise CannotStartError(f"{directory.spots} cannot be read ({error}): remove it") from error

    def save(self, directory: DataDirectory) -> None:
        directory.write("spots.json", (json.dumps(asdict(self)) + "\n").encode(), 0o600)

    def get(self, ip: str) -> Wanted | None:
        return next((spot for spot in self.spots if spot.ip == ip), None)

    def result(self, execution_id: str) -> str | None:
        return dict(self.results).get(execution_id)

    def free_address(self) -> str:
        """The smallest of 127.0.0.1 ... that no spot has. Raises RequestRefusedError."""
        taken = {spot.ip for spot in self.spots}
        for number in range(1, 255):
            if f"127.0.0.{number}" not in taken:
                return f"127.0.0.{number}"
        raise RequestRefusedError("This machine has as many spots as it can name: remove one first.")

    def with_spot(self, spot: Wanted) -> SpotFile:
        """The file with `spot` in place of what had its address."""
        return replace(self, spots=(*(other for other in self.spots if other.ip != spot.ip), spot))

    def without(self, ip: str) -> SpotFile:
        return replace(self, spots=tuple(spot for spot in self.spots if spot.ip != ip))

    def with_result(self, execution_id: str, ip: str) -> SpotFile:
        return replace(self, results=(*self.results, (execution_id, ip))[-REMEMBERED:])


class RequestRefusedError(Exception):
    """A request that cannot be done; the text is the execution's error."""


class SpotRunner(Protocol):
    """Starts and stops spot processes; the supervisor's part."""

    def start_spot(self, ip: str) -> None:
        """Keep a spot running at `ip`; nothing if it does."""

    async def stop_spot(self, ip: str) -> None:
        """Drain it and stop it; returns when it is gone."""

    def failure(self, ip: str) -> str | None:
        """Why the spot will never come up; None while it may."""


class LocalSpots:
    """Carries out spot requests, one after the other."""

    def __init__(
        self,
        directory: DataDirectory,
        first: int,
        requests: SpotRequests,
        runner: SpotRunner,
        admissions: Admissions | None = None,
    ) -> None:
        self._directory = directory
        self._requests = requests
        self._runner = runner
        self._admissions = admissions
        self._file = SpotFile.load(directory, first)
        self._turn = asyncio.Lock()
        self._sealed: dict[str, str] = {}
        """Credentials on their way to who waits for them, by execution."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of the spots that shall run."""
        return tuple(spot.ip for spot in self._file.spots)

    async def start(self) -> None:
        """Start every wanted spot. Call again is harmless. Raises Unavailable."""
        self._save(self._file)
        await asyncio.to_thread(self._requests.forget, self.addresses)
        for ip in self.addresses:
            self._runner.start_spot(ip)

    async def registered(self, ip: str) -> None:
        """Returns when the spot has told of itself. Raises RequestRefusedError if it cannot, or takes too long."""
        deadline = time.monotonic() + REGISTER_SECONDS
        while ip not in await asyncio.to_thread(self._requests.online):
            if (why := self._runner.failure(ip)) is not None:
                raise RequestRefusedError(why)
            if time.monotonic() > deadline:
                raise RequestRefusedError(f"Spot {ip} did not come up within {REGISTER_SECONDS:g} s.")
            await asyncio.sleep(POLL_SECONDS)

    async def serve(self) -> None:
        """Do what is asked, for ever: first what a predecessor left. Lives through an absent Redis."""
        left: list[SpotRequest] | None = None
        told = False
        while True:
            try:
                if left is None:
                    left = await asyncio.to_thread(self._requests.left_over)
                request = left[0] if left else await asyncio.to_thread(self._requests.take, TAKE_SECONDS)
                if request is not None:
                    async with self._turn:
                        await self._carry_out(request)
                    left = [other for other in left if other != request]
                told = False
            except (Unavailable, OSError) as error:
                if not told:
                    say(f"spot requests wait: {error}")
                    told = True
                # What was taken stands in Redis' list of taken requests: look there first when it is back.
                left = None
                await asyncio.sleep(AWAY_SECONDS)

    async def renew(self) -> int:
        """A new spot in place of each that runs, one after the other, the new one up before the old one drains; how
        many. Raises RequestRefusedError if a new one does not come up; the others stay as they are.
        """
        async with self._turn:
            for old in (before := self.addresses):
                ip = self._file.free_address()
                self._save(self._file.with_spot(Wanted(ip=ip)))
                self._runner.start_spot(ip)
                try:
                    await self.registered(ip)
                except RequestRefusedError:
                    await self._take_down(ip)
                    raise
                await self._take_down(old)
        return len(before)

    # ------------------------------------------------------------ one request

    async def _carry_out(self, request: SpotRequest) -> None:
        if not await asyncio.to_thread(self._requests.hold, request, LEASE_SECONDS):
            await asyncio.to_thread(self._requests.finish, request)
            return
        await asyncio.to_thread(self._requests.report, _started(request))
        async with self._held(request):
            ended = await self._end_of(request)
        await asyncio.to_thread(self._requests.finish, request, ended)
        if request.action == "admit":
            await asyncio.to_thread(self._requests.reply, request, self._answer(request, ended))

    @contextlib.asynccontextmanager
    async def _held(self, request: SpotRequest) -> AsyncIterator[None]:
        """Renew the lease within the block. One that cannot be renewed for a while is still held long enough."""
        done = asyncio.Event()

        async def renew() -> None:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), RENEW_SECONDS)
                    return
                with contextlib.suppress(Unavailable):
                    await asyncio.to_thread(self._requests.hold, request, LEASE_SECONDS)

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            done.set()
            await renewing  # not cancelled: a renewal under way must not come after the end

    def _answer(self, request: SpotRequest, ended: RunEnded) -> RunEnded:
        """The end as who waits for it is told: with the credentials, which no record has."""
        credentials = self._sealed.pop(request.execution_id, None)
        return ended if credentials is None else replace(ended, output=json.dumps(credentials))

    async def _end_of(self, request: SpotRequest) -> RunEnded:
        """Do what is asked, unless it is done already; the report of it."""
        try:
            ip = self._file.result(request.execution_id) or await self._do(request)
        except RequestRefusedError as refusal:
            return _refused(request, str(refusal))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # A defect of ours must not make the request come back for ever.
            say(f"a request to {request.action} a spot failed: {error!r}")
            return _refused(request, "The supervisor could not do it; its console says why.")
        self._save(self._file.with_result(request.execution_id, ip))
        return _done(request, ip)

    async def _do(self, request: SpotRequest) -> str:
        actions: dict[str, Callable[[SpotRequest], Awaitable[str]]] = {
            "add": self._add,
            "remove": self._remove,
            "replace": self._replace,
            "refresh": self._refresh,
            "admit": self._admit,
            "dismiss": self._dismiss,
        }
        return await actions[request.action](request)

    async def _add(self, request: SpotRequest) -> str:
        begun = next((spot.ip for spot in self._file.spots if spot.by == request.execution_id), None)
        ip = begun or self._file.free_address()
        self._save(self._file.with_spot(Wanted(ip=ip, by=request.execution_id)))
        self._runner.start_spot(ip)
        try:
            await self.registered(ip)
        except RequestRefusedError:
            await self._take_down(ip)
            raise
        return ip

    async def _remove(self, request: SpotRequest) -> str:
        """The one that is named, else the newest."""
        begun = next((spot for spot in self._file.spots if spot.leaving == request.execution_id), None)
        spot = begun or self._named(request.ip)
        self._save(self._file.with_spot(replace(spot, leaving=request.execution_id)))
        await self._take_down(spot.ip)
        return spot.ip

    async def _replace(self, request: SpotRequest) -> str:
        """The new one stands before the old one goes, so that nothing has to wait in between."""
        old = next((spot.ip for spot in self._file.spots if spot.leaving == request.execution_id), None)
        old = old or self._named(request.ip).ip
        ip = await self._add(request)
        leaving = self._file.get(old)
        if leaving is not None and leaving.ip != ip:
            self._save(self._file.with_spot(replace(leaving, leaving=request.execution_id)))
            await self._take_down(old)
        return ip

    async def _refresh(self, request: SpotRequest) -> str:
        """A local spot's address never changes: it is there, or the request is refused."""
        wanted = self.addresses if request.ip in (None, "all") else (self._named(request.ip).ip,)
        for ip in wanted:
            await self.registered(ip)
        return ", ".join(wanted)

    async def _admit(self, request: SpotRequest) -> str:
        """Let a spot of another host in."""
        if self._file.get(request.ip or "") is not None:
            raise RequestRefusedError(f"{request.ip} is a spot of this machine: join with another address (--ip).")
        if request.expires is not None and time.time() > request.expires:
            raise RequestRefusedError("Nobody waits for these credentials any more: join again.")
        if self._admissions is None or request.ip is None or request.key is None:
            raise RequestRefusedError("This platform takes no spots of other hosts.")
        try:
            self._sealed[request.execution_id] = await self._admissions.admit(request.ip, request.key)
        except NotAdmittedError as refusal:
            raise RequestRefusedError(str(refusal)) from None
        return request.ip

    async def _dismiss(self, request: SpotRequest) -> str:
        """End a spot of another host, once it has drained."""
        if self._admissions is None or request.ip is None:
            raise RequestRefusedError("This platform has no spots of other hosts.")
        await self._admissions.dismiss(request.ip)
        return request.ip

    def _named(self, ip: str | None) -> Wanted:
        spot = self._file.get(ip) if ip else next(reversed(self._file.spots), None)
        if spot is None:
            raise RequestRefusedError(f"There is no local spot {ip}." if ip else "There is no local spot.")
        return spot

    async def _take_down(self, ip: str) -> None:
        await self._runner.stop_spot(ip)
        await asyncio.to_thread(self._requests.forget, (ip,))
        self._save(self._file.without(ip))

    def _save(self, file: SpotFile) -> None:
        file.save(self._directory)
        self._file = file


def _started(request: SpotRequest) -> RunStarted:
    return RunStarted(
        execution_id=request.execution_id,
        attempt=request.attempt,
        token=request.token,
        spot=request.ip or "",
        at=time.time(),
    )


def _done(request: SpotRequest, ip: str) -> RunEnded:
    return RunEnded(
        execution_id=request.execution_id,
        attempt=request.attempt,
        token=request.token,
        spot=ip,
        at=time.time(),
        status="Success",
        output=json.dumps(ip),
    )


def _refused(request: SpotRequest, why: str) -> RunEnded:
    return RunEnded(
        execution_id=request.execution_id,
        attempt=request.attempt,
        token=request.token,
        spot=request.ip or "",
        at=time.time(),
        status="Failure",
        reason="error",
        error=Error(type="SpotError", message=why),
    )
