"""What a running spot does: gives its workers sandboxes, hears the API, stops cleanly."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from faaspot_runner.blobs import BlobError, Blobs
from faaspot_runner.connectors import CONNECTORS
from faaspot_runner.connectors.base import DeploymentConfig, Sandbox
from faaspot_runner.contract import Network, Release, SandboxSpec, SpotInfo
from faaspot_runner.environments.build import Environments
from faaspot_runner.errors import DeploymentError, SandboxError
from faaspot_runner.runtimes.manager import DefaultDeploymentManager
from faaspot_runner.runtimes.pool import SandboxPool
from faaspot_runner.runtimes.spot_socket import welcome
from faaspot_runner.sandbox.cgroups import Cgroups
from faaspot_runner.sandbox.network import Egress
from faaspot_runner.sandbox.spec import Interpreter, Material
from faaspot_runner.settings import Settings
from faaspot_runner.spot import pulse
from faaspot_runner.spot.crew import Crew, Member
from faaspot_runner.spot.offer import fate, offer
from faaspot_runner.spot.pulse import Control, Heartbeat

log = logging.getLogger(__name__)

EVICT_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a spot stands on, found and opened at its start. `runtimes`: those that it offers."""

    settings: Settings
    runtimes: tuple[str, ...]
    interpreters: Mapping[str, Interpreter]
    environments: Environments
    cgroups: Cgroups | None
    egress: Egress | None
    problems: tuple[str, ...]

    @property
    def limits(self) -> Literal["cgroup", "rlimit", "none"]:
        if "sandbox" not in self.runtimes:
            return "none"
        return "cgroup" if self.cgroups else "rlimit"

    @property
    def networks(self) -> tuple[Network, ...]:
        # A process that nothing isolates has the host's network, whatever it asked for.
        reaches = self.egress is not None or "sandbox" not in self.runtimes
        return ("none", "internet") if reaches else ("none",)

    def configs(self, home: Path) -> dict[str, DeploymentConfig]:
        """The runtimes' definitions, by name."""
        settings: dict[str, dict[str, Any]] = {
            "sandbox": {"cgroups": self.cgroups, "egress": self.egress, "runs": self.settings.most_runs},
            "process": {"directory": home / "process"},
        }
        return {
            name: DeploymentConfig(name=name, type=name, config=settings[name], lazy=False) for name in self.runtimes
        }


class Broker:
    """One spot, from its first heartbeat to the removal of all that it made."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._settings = settings = ground.settings
        self._blobs = Blobs(settings.data_dir / "blobs")
        self._configs = ground.configs(settings.home)
        self._manager = DefaultDeploymentManager(CONNECTORS, self._configs)
        self._pool = SandboxPool(self._open, most=settings.sandboxes, idle=settings.sandbox_idle, gone=self._gone)
        self._crew = Crew(
            settings.ip.replace(":", "-"),
            worker_arguments(settings),
            welcome(ground.cgroups.describe() if ground.cgroups else None, ground.interpreters.values()),
            self._hear,
            self._bury,
        )
        self._stuck = 0
        self._doomed: set[str] = set()
        self._removal = asyncio.Lock()
        self._stop, self._hasten = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; a second one hastens. Raises RunnerError if a runtime does not come up."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled)
        client = pulse.connect(self._settings)
        heartbeat = Heartbeat(client, self._settings.ip, self._settings.home / "spot.json", self._info)
        control = Control(client, self._cancel, self._release, lambda: self._crew.tell({"op": "look"}))
        try:
            for config in self._configs.values():
                await self._manager.deploy(config)
            self._crew.start(self._settings.worker_counts)
            chores = [asyncio.create_task(chore) for chore in (heartbeat.run(), control.run(), self._tidy())]
            await self._until_stopped(chores)
            heartbeat.beat()
            await self._crew.stop(self._settings.grace, self._hasten)
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
        finally:
            await self._pool.close()
            await self._manager.close()
            await client.aclose()

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

    def _info(self, created: float, now: float) -> SpotInfo:
        return SpotInfo(
            ip=self._settings.ip,
            created=created,
            last_seen=now,
            status="draining" if self._stop.is_set() else "online",
            runtimes=self._ground.runtimes,
            pythons={version: each.full_version for version, each in self._ground.interpreters.items()},
            networks=self._ground.networks,
            limits=self._ground.limits,
            workers=self._crew.counts(),
            running=self._crew.running,
            sandboxes=len(self._pool),
            stuck=self._stuck,
            problems=self._ground.problems,
        )

    # ------------------------------------------------------------ workers

    def _hear(self, member: Member, message: dict[str, Any]) -> None:
        match message["op"]:
            case "acquire":
                member.ask(self._acquire(member, message))
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

    # ------------------------------------------------------------ sandboxes

    async def _open(self, spec: SandboxSpec, deadline: float) -> Sandbox:
        """Start the sandbox of a spec. Raises SandboxError."""
        connector = self._manager.get_connector(spec.runtime)
        if connector is None:
            raise SandboxError(f"This spot does not offer the runtime {spec.runtime}.", reason="no_spot")
        if spec.limits.network not in self._ground.networks:
            raise SandboxError(f"This spot does not offer network {spec.limits.network}.", reason="no_spot")
        async with self._removal:  # the environment is here whole, or gone: the pool knows already that it is needed
            self._doomed.discard(spec.environment or "")
            material = await asyncio.to_thread(self._material, spec)
        try:
            return await connector.open(spec, material, deadline)
        except DeploymentError as error:
            raise SandboxError(str(error)) from error

    def _material(self, spec: SandboxSpec) -> Material:
        python = self._ground.interpreters.get(spec.python)
        if python is None:
            raise SandboxError(f"This spot has no Python {spec.python}.", reason="no_spot")
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
                    if name in self._doomed - self._pool.environments:
                        self._doomed.discard(name)
                        await asyncio.to_thread(self._remove_environment, name)

    def _remove_environment(self, name: str) -> None:
        try:
            self._ground.environments.remove(name)
        except (OSError, ValueError) as error:
            log.warning("the environment %s was not removed: %s", name, error)

    # ------------------------------------------------------------ control

    def _cancel(self, execution_id: str) -> None:
        self._crew.tell({"op": "cancel", "execution_id": execution_id})

    def _release(self, release: Release) -> None:
        self._pool.release(release.version_ids)
        self._doomed |= set(release.environments)


def worker_arguments(settings: Settings) -> list[str]:
    """The settings that a worker needs, as its command line takes them."""
    names = (
        "ip",
        "data_dir",
        "redis_url",
        "threads",
        "build_threads",
        "cold_start_timeout",
        "download_uid",
        "log_level",
    )
    said = ((f"--{name.replace('_', '-')}", str(getattr(settings, name))) for name in names)
    return [part for pair in said for part in pair]
