"""What a running spot does: gives its workers sandboxes, hears the API, stops cleanly."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterable, Mapping
from typing import Any

import redis

from faaspot_runner.archives import Archives
from faaspot_runner.blobs import BlobError, Blobs
from faaspot_runner.connectors.base import Connector, Log, Sandbox
from faaspot_runner.contract import QUEUE_BUILDS, QUEUES, Release, SandboxSpec, SpotInfo
from faaspot_runner.contract.spots import Wish
from faaspot_runner.environments.errors import BuildError
from faaspot_runner.errors import DeploymentError, NotOffered, SandboxError
from faaspot_runner.runtimes.ahead import Ahead
from faaspot_runner.runtimes.pool import SandboxPool
from faaspot_runner.runtimes.spot_socket import welcome
from faaspot_runner.sandbox.pressure import free_share
from faaspot_runner.sandbox.spec import Interpreter, Material
from faaspot_runner.settings import Settings
from faaspot_runner.spot import pulse
from faaspot_runner.spot.crew import Crew, Member
from faaspot_runner.spot.ground import Ground
from faaspot_runner.spot.offer import fate, offer, prepare
from faaspot_runner.spot.pulse import Control, Heartbeat, Needs
from faaspot_runner.spot.runtimes import SpotRuntimes
from faaspot_runner.spot.wishes import RUN_QUEUES, Scale, Wishes

log = logging.getLogger(__name__)

EVICT_SECONDS = 2.0
CANCEL_SECONDS = 0.5
BLOB_SECONDS = 7 * 86_400.0
"""A spot on another host lets go of a blob that it did not need for this long."""


class Broker:
    """One spot, from its first heartbeat to the removal of all that it made."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._settings = settings = ground.settings
        self._blobs = Blobs.of(settings)
        self._pool = SandboxPool(
            self._open,
            most=settings.sandboxes,
            idle=settings.sandbox_idle,
            gone=self._gone,
            leaves=self._leaves,
            free=free_share,
        )
        self._runtimes = SpotRuntimes(
            ground.means(),
            clear=lambda name: self._pool.clear(name, settings.grace),
            changed=lambda: self._heartbeat.beat(),
        )
        client = self._client = pulse.connect(settings)
        self._heartbeat = Heartbeat(client, settings, self._info, self._leave_shut_out)
        most = max(1, settings.sandboxes // 2)
        self._ahead = Ahead(self._pool, self._installed, most=most, seconds=settings.cold_start_timeout)
        self._wishes = Wishes(client, settings.ip, self._follow, self._ahead.want)
        self._scale = Scale(settings.worker_counts, settings.threads)
        self._draining = False
        self._control = Control(
            client, self._cancel, self._release, self._runtimes.want, lambda: self._crew.tell({"op": "look"})
        )
        self._needs = Needs(client, self._keep_only)
        self._crew = Crew(
            settings.ip.replace(":", "-"),
            worker_arguments(settings),
            welcome(ground.cgroups.describe() if ground.cgroups else None, ground.interpreters.values()),
            self._hear,
            self._bury,
        )
        self._stuck = 0
        self._doomed: set[str] = set()
        self._kept: set[str] = set()
        self._removal = asyncio.Lock()
        self._stop, self._hasten = asyncio.Event(), asyncio.Event()
        self.shut_out = False
        """Whether it ended because Redis did not let it in any more."""

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; a second one hastens. Raises RunnerError if a runtime does not come up."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled)
        try:
            await self._runtimes.begin()
            self._crew.start(self._settings.worker_counts)
            work = [self._heartbeat.run(), self._control.run(), self._needs.run(), self._wishes.run()]
            work += [self._tidy(), self._forget()]
            work += [self._ground.watch.run()] if self._ground.watch else []
            chores = [asyncio.create_task(chore) for chore in work]
            await self._until_stopped(chores)
            self._heartbeat.beat()
            await self._crew.stop(self._settings.grace, self._hasten)
            await ended(chores)
            if self._wishes.leaving:
                await self._heartbeat.leave()
        finally:
            await self._ahead.close()
            await self._pool.close()
            await self._runtimes.close()
            await self._client.aclose()

    async def _until_stopped(self, chores: list[asyncio.Task[None]]) -> None:
        """Return at a stop; a chore that ends is a defect, and ends the spot with it."""
        stop = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait([stop, *chores], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stop}:
            task.result()

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._hasten.set()
        self._stop.set()

    def _leave_shut_out(self) -> None:
        """End at once: no lease can be renewed, no end be reported."""
        self.shut_out = True
        self._stop.set()
        self._hasten.set()

    def _info(self, created: float, now: float) -> SpotInfo:
        return SpotInfo(
            ip=self._settings.ip,
            created=created,
            last_seen=now,
            status="draining" if self._stop.is_set() or self._draining else "online",
            runtimes=self._runtimes.names,
            pythons={version: each.full_version for version, each in self._ground.interpreters.items()},
            networks=self._ground.networks,
            limits=self._ground.limits,
            workers=self._crew.counts(),
            running=self._crew.running,
            sandboxes=len(self._pool),
            stuck=self._stuck,
            problems=self._ground.told,
            states=self._runtimes.states(),
            egress=self._ground.lists,
            remote=bool(self._settings.api),
            rooms={queue: self._threads(queue) * self._crew.wanted(queue) for queue in QUEUES},
            warm=self._pool.versions,
            load=round(os.getloadavg()[0] / (os.cpu_count() or 1), 2),
        )

    def _threads(self, queue: str) -> int:
        return self._settings.build_threads if queue == QUEUE_BUILDS else self._settings.threads

    # ------------------------------------------------------------ workers

    def _hear(self, member: Member, message: dict[str, Any]) -> None:
        match message["op"]:
            case "acquire":
                member.ask(self._acquire(member, message))
            case "interpreter" | "keep":
                member.ask(self._prepare(member, message))
            case "used":
                member.running = message["running"]
                self._pool.touch(message["sandboxes"])
            case "suspect":
                self._stuck += message["stuck"]
                if self._pool.suspect(message["sandbox"]):
                    log.warning("sandbox %s is killed whole", message["sandbox"])
                member.line.send(fate(self._pool, message))

    async def _acquire(self, member: Member, message: dict[str, Any]) -> None:
        """Answer one worker's question for a sandbox."""
        answer, channel = await offer(self._pool, message)
        if channel is not None:
            member.sandboxes.add(answer["sandbox"])
        member.line.send(answer, channel)

    async def _prepare(self, member: Member, message: dict[str, Any]) -> None:
        """Answer what a runtime's environments are made for, or prepare the start of a version that was built."""
        member.line.send(await prepare(lambda log: self._made_ready(message, log), message["call"]), None)

    async def _made_ready(self, message: dict[str, Any], log: Log) -> Interpreter | None:
        """Raises SandboxError."""
        connector = await self._connector(message["runtime"])
        python, name = self._python(message["python"]), message.get("environment")
        try:
            if message["op"] == "interpreter":
                return await connector.interpreter(python, log)
            await connector.keep(python, self._ground.environments.path(name) if name else None, log)
        except DeploymentError as error:
            raise _sandbox_error(error) from error
        return None

    async def _bury(self, member: Member) -> None:
        """Kill what a dead worker's runs left; without cgroups that means the whole sandboxes that it used."""
        if self._ground.cgroups is not None:
            left = await asyncio.to_thread(self._ground.cgroups.sweep, member.name)
            self._stuck += left
            return
        for sandbox in member.sandboxes if member.process.returncode else ():
            self._pool.suspect(sandbox)

    def _gone(self, sandbox: str) -> None:
        self._crew.forget(sandbox)

    def _leaves(self, sandbox: str) -> None:
        """Have the workers let go of what waits in it for a next run; it ends with the last that is let go of.

        Runs go on in it: whose they are is still to be known when their worker dies.
        """
        self._crew.tell({"op": "gone", "sandbox": sandbox})

    # ------------------------------------------------------------ sandboxes

    async def _open(self, spec: SandboxSpec, deadline: float) -> Sandbox:
        """Start the sandbox of a spec. Raises SandboxError."""
        if spec.limits.network not in self._ground.networks:
            raise NotOffered(f"This spot does not offer network {spec.limits.network}.")
        connector = await self._connector(spec.runtime)
        if spec.limits.egress is not None and not (self._ground.lists and self._runtimes.lists(spec.runtime)):
            raise NotOffered("This spot cannot hold this runtime to an allow-list (egress).")
        async with self._removal:  # the environment is here whole, or gone: the pool knows already that it is needed
            self._doomed.discard(spec.environment or "")
            material = await asyncio.to_thread(self._material, spec)
        try:
            return await connector.open(spec, material, deadline)
        except DeploymentError as error:
            raise _sandbox_error(error) from error

    async def _installed(self, spec: SandboxSpec, deadline: float) -> SandboxSpec:
        """The spec once its packages are here, as a worker has it before it asks for a sandbox. Raises SandboxError."""
        environments = self._ground.environments
        if spec.environment is None or environments.path(spec.environment).is_dir():
            return spec
        connector = await self._connector(spec.runtime)
        try:
            python = await connector.interpreter(self._python(spec.python), log.info)
            archives = Archives(self._blobs, environments)
            return await asyncio.to_thread(archives.installed, spec, python, deadline)
        except DeploymentError as error:
            raise _sandbox_error(error) from error
        except (BuildError, BlobError) as error:
            raise SandboxError(f"its environment could not be installed here: {error}") from error

    def _python(self, version: str) -> Interpreter:
        python = self._ground.interpreters.get(version)
        if python is None:
            raise NotOffered(f"This spot has no Python {version}.")
        return python

    async def _connector(self, name: str) -> Connector:
        """The connector of a runtime; one that was never heard of may have been defined a moment ago."""
        if not self._runtimes.knows(name):
            try:
                await self._control.look()
            except redis.RedisError as error:
                log.warning("the runtime %s is unknown, and Redis is away: %s", name, error)
        return await self._runtimes.connector(name)

    def _material(self, spec: SandboxSpec) -> Material:
        python = self._python(spec.python)
        try:
            code = self._blobs.read(spec.code)
        except BlobError as error:
            raise SandboxError(str(error)) from error
        environment = self._ground.environments.path(spec.environment) if spec.environment else None
        if environment is not None and not environment.is_dir():
            raise SandboxError(f"The environment {spec.environment} is not on this spot any more.")
        return Material(code=code, python=python, environment=environment)

    async def _tidy(self) -> None:
        """Take down what is not needed, for ever."""
        while True:
            await asyncio.sleep(EVICT_SECONDS)
            self._pool.evict()
            for name in tuple(self._doomed):
                async with self._removal:
                    if name not in self._doomed - self._pool.environments - self._runtimes.environments:
                        continue
                    self._doomed.discard(name)
                    await asyncio.to_thread(self._remove_environment, name)
                self._kept.add(name)

    async def _forget(self) -> None:
        """Have the runtimes let go of what they made of environments that are gone, for ever; it may take long."""
        while True:
            await asyncio.sleep(EVICT_SECONDS)
            for name in tuple(self._kept):
                # What it takes from a version that comes now is made again.
                if self._ground.environments.path(name).is_dir() or await self._runtimes.forget(name):
                    self._kept.discard(name)

    def _remove_environment(self, name: str) -> None:
        try:
            self._ground.environments.remove(name)
        except (OSError, ValueError) as error:
            log.warning("the environment %s was not removed: %s", name, error)

    # ------------------------------------------------------------ control

    def _follow(self, wish: Wish, waiting: Mapping[str, int]) -> None:
        """Do what people want of this spot; `waiting`: wake-ups that it could take, by queue."""
        if wish.leaving:
            self._stop.set()
        if wish.draining != self._draining:
            self._draining = wish.draining
            self._crew.pause(wish.draining)
            self._heartbeat.beat()
        for queue in RUN_QUEUES:
            running = self._crew.running_of(queue)
            self._crew.scale(queue, self._scale.of(queue, self._crew.wanted(queue), wish, waiting[queue], running))

    def _cancel(self, execution_id: str) -> None:
        self._crew.tell({"op": "cancel", "execution_id": execution_id})

    def _release(self, release: Release) -> None:
        self._ahead.release(release.version_ids)
        self._pool.release(release.version_ids)
        self._runtimes.release(release.version_ids)
        self._doomed |= set(release.environments)

    async def _keep_only(self, needed: frozenset[str]) -> None:
        await asyncio.to_thread(self._blobs.sweep, BLOB_SECONDS)
        self._doomed |= await asyncio.to_thread(self._ground.environments.unneeded, needed)


async def ended(chores: Iterable[asyncio.Task[None]]) -> None:
    """Cancel them until they have ended: the client of Redis can lose a cancel that comes within a command."""
    left = set(chores)
    while left:
        for chore in left:
            chore.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_SECONDS)


def _sandbox_error(error: SandboxError | DeploymentError) -> SandboxError:
    """A runtime that did not come up, with the reason of what kept it from coming."""
    if isinstance(error, SandboxError):
        return error
    return error.__cause__ if isinstance(error.__cause__, SandboxError) else SandboxError(str(error))


def worker_arguments(settings: Settings) -> list[str]:
    """The settings that a worker needs, as its command line takes them."""
    names = (
        "ip",
        "data_dir",
        "blobs",
        "api",
        "api_ca",
        "bucket",
        "bucket_endpoint",
        "bucket_region",
        "redis_url",
        "threads",
        "build_threads",
        "resolution_age",
        "cold_start_timeout",
        "download_uid",
        "failpoints",
        "log_level",
    )
    said = ((f"--{name.replace('_', '-')}", str(getattr(settings, name))) for name in names)
    return [part for pair in said for part in pair]
