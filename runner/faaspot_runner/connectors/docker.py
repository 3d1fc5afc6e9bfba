"""The runtime `docker`: sandboxes in containers of a Docker engine, from images of the user's choice.

One container for each deployment version. The engine builds the outer wall around it (`docker.container`); in it our
launcher makes one sandbox with the inner wall, as it does for an ordinary user on the host. So the zygote, its wire and
the way that runs are driven and killed are those of the runtime `sandbox`, and a warm run costs the same.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from faaspot_runner.connectors.base import Connector, DeploymentConfig, Log, Sandbox
from faaspot_runner.connectors.blanks import Blanks, Stock, Waiting
from faaspot_runner.connectors.placed import open_in
from faaspot_runner.connectors.zygote import ZygoteSandbox
from faaspot_runner.contract import Limits, SandboxSpec
from faaspot_runner.docker import hatch, place
from faaspot_runner.docker.config import DockerConfig
from faaspot_runner.docker.container import Wanted
from faaspot_runner.docker.engine import Engine, Owner
from faaspot_runner.docker.guest import Guest
from faaspot_runner.docker.image import Base, Images
from faaspot_runner.docker.place import Place
from faaspot_runner.errors import EngineError, SandboxError
from faaspot_runner.sandbox import seccomp
from faaspot_runner.sandbox.cgroups import Cgroups
from faaspot_runner.sandbox.holdings import Holdings
from faaspot_runner.sandbox.limits import ZYGOTE_MEMORY_MB, ZYGOTE_PIDS, Grade
from faaspot_runner.sandbox.namespaces import UidPairs
from faaspot_runner.sandbox.spec import Interpreter, Material

log = logging.getLogger(__name__)

LODGING_MEMORY_MB, LODGING_PIDS = 4096, 4096
"""Of a container for the sandboxes of many versions, where the config does not say."""
STOCK = Stock(first=1, most=2, at_once=1)
"""Blanks: each is a container."""


class DockerConnector(Connector):
    """Config keys: those of `docker.config.DockerConfig`, and from the spot `engine` (an `Engine`), `owner` (an
    `Owner`), `directory` (a Path, its own), `environments` (a Path), `cgroups`, `egress`, `blanks` as the sandbox has.

    External (`container`): sandboxes are made in that one container, as another runtime's are that stands on this one.
    """

    can_lodge = True

    def __init__(self, config: DeploymentConfig, inner: Connector | None = None) -> None:
        """Raises DeploymentDefinitionError for a config that cannot be."""
        super().__init__(config, inner)
        self._given: Mapping[str, Any] = config.config
        self._engine: Engine = self._given["engine"]
        self._owner: Owner = self._given["owner"]
        self._cgroups: Cgroups | None = self._given.get("cgroups")
        said = {key: value for key, value in config.config.items() if key not in FROM_THE_SPOT}
        self._config = DockerConfig.of(config.name, said, external=config.external)
        self._images = Images(self._engine, self._owner, self._config, config.name)
        self._pairs = UidPairs()
        self._means: place.Means | None = None
        self._sandboxes: set[ZygoteSandbox] = set()
        self._lodgings: dict[str, Place] = {}
        self._lodging = asyncio.Lock()
        kinds = 0 if config.external else self._given.get("blanks", 0)
        self.blanks = Blanks(self._made, kinds=kinds, stock=STOCK)

    async def deploy(self, external: bool) -> None:
        """Find the engine, sweep what an earlier spot left of this runtime. Raises EngineError, FeatureMissing."""
        seccomp.programs(counted=self._cgroups is not None)
        seccomp.run_filter()
        self._means = await self._engine.background(self._prepared)

    def _prepared(self) -> place.Means:
        self._engine.examine()
        self._engine.sweep(self._owner, self.config.name)
        directory: Path = self._given["directory"]
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        program = directory / hatch.PROGRAM
        hatch.pack(program)
        return place.Means(engine=self._engine, directory=directory, program=program, egress=self._given.get("egress"))

    async def undeploy(self, external: bool) -> None:
        """Stop every sandbox, remove every container. What the engine does not remove now goes at the next start."""
        self._means = None
        await self.blanks.close(starts=False)
        await asyncio.gather(*(sandbox.stop() for sandbox in list(self._sandboxes)))
        self._sandboxes.clear()
        lodgings, self._lodgings = self._lodgings, {}
        for lodging in lodgings.values():
            await self._engine.removal(lodging.remove)
        try:
            await self._engine.removal(self._engine.sweep, self._owner, self.config.name)
        except EngineError as error:
            log.warning("containers of the runtime %s may be left: %s", self.config.name, error)

    # ------------------------------------------------------------ environments

    async def interpreter(self, python: Interpreter, log: Log) -> Interpreter:
        return (await self._base(python, log)).target

    async def keep(self, python: Interpreter, environment: Path | None, log: Log) -> None:
        """Build the image of the environment. Raises SandboxError."""
        base = await self._base(python, log)
        if environment is not None and not self.config.external:
            await self._engine.background(self._images.of_environment, base, environment, log)

    def release(self, version_ids: Collection[str]) -> None:
        self.blanks.release(version_ids)

    async def forget(self, environment: str) -> bool:
        return await self._engine.removal(self._images.forget, environment)

    async def _base(self, python: Interpreter, log: Log) -> Base:
        if self.config.external:
            guest = await self._engine.background(self._guest)
            return await self._engine.background(self._images.of_guest, guest, python)
        return await self._engine.background(self._images.base, python, log)

    # ------------------------------------------------------------ sandboxes

    async def open(self, spec: SandboxSpec, material: Material, deadline: float) -> Sandbox:
        return await self.blanks.open(spec, material, deadline)

    async def _made(self, spec: SandboxSpec, material: Material, waiting: Waiting | None = None) -> ZygoteSandbox:
        """A sandbox, which then imports its module, or is `waiting` for it. Raises SandboxError."""
        means = self._ready()
        if self.config.external:
            there, holdings = await self.lodging(spec, material), Holdings()
        else:
            holdings = Holdings()
            there = holdings.housing = await self._start(spec, material, holdings)
        sandbox = await open_in(there, spec, material, holdings, self._grade, waiting)
        sandbox.guard(self._config.runs)
        self._sandboxes.add(sandbox)
        sandbox.on_stop = lambda: self._sandboxes.discard(sandbox)
        if self._means is not means:
            await sandbox.stop()
            raise self._undeployed()
        return sandbox

    @property
    def _grade(self) -> Grade:
        return "cgroup" if self._cgroups else "rlimit"

    async def _start(self, spec: SandboxSpec, material: Material, holdings: Holdings) -> Place:
        """A place for one version alone. Raises SandboxError, and `holdings` are free then."""
        means = self._ready()
        base = await self._base(material.python, log.info)
        image = base.id
        if material.environment is not None:
            image = await self._engine.background(self._images.of_environment, base, material.environment, log.info)
        times = 1 if self._cgroups else self._config.runs
        memory = self._config.memory or spec.limits.memory * times + ZYGOTE_MEMORY_MB
        pids = self._config.pids or spec.limits.pids * times + ZYGOTE_PIDS
        wanted = self._wanted(image, holdings, memory, pids)
        try:
            return await self._standing(means, await place.start(means, wanted, base, spec.limits))
        except BaseException:
            holdings.free()
            raise

    def _wanted(self, image: str, holdings: Holdings, memory: int, pids: int) -> Wanted:
        """As root each container has an ordinary uid of its own; an ordinary user's have theirs, who may look at it."""
        if os.geteuid() == 0:
            holdings.pair = self._pairs.acquire()
        uid, gid = (holdings.pair.first,) * 2 if holdings.pair else (os.geteuid(), os.getegid())
        return Wanted(
            image=image,
            uid=uid,
            gid=gid,
            memory_mb=memory,
            pids=pids,
            cpus=self._config.cpus,
            oci_runtime=self._config.oci_runtime,
            labels=self._owner.labels(self.config.name),
        )

    def _ready(self) -> place.Means:
        if self._means is None:
            raise SandboxError(f"the runtime {self.config.name} is not deployed")
        return self._means

    async def _standing(self, means: place.Means, there: Place) -> Place:
        """A place that has just come up. Raises SandboxError, and it is gone, if the runtime was undeployed meanwhile.

        An `undeploy` does not wait for starts: one may fetch an image for half an hour.
        """
        if self._means is means:
            return there
        await self._engine.removal(there.remove)
        raise self._undeployed()

    def _undeployed(self) -> SandboxError:
        return SandboxError(f"the runtime {self.config.name} was undeployed while a sandbox of it was started")

    # ------------------------------------------------------------ places for many

    async def lodging(self, spec: SandboxSpec, material: Material) -> Place:
        """The container that many versions share, started at the first use and again if it died.

        A container has one network: where a version asks for the internet it is one for that version alone.
        """
        means = self._ready()
        if self.config.external and spec.limits.egress is not None:
            raise SandboxError("a container's own network cannot be held to an allow-list", reason="no_spot")
        if spec.limits.network == "internet" and not self.config.external:
            return await self._lodge(means, material.python, spec.limits)
        async with self._lodging:
            there = self._lodgings.get(material.python.version)
            if there is not None and (there.launcher.closed or not there.container.alive()):
                await self._engine.removal(there.remove)
                there = None
            if there is None:
                there = await self._lodge(means, material.python)
                there.shared = True
                self._lodgings[material.python.version] = there
            return there

    async def _lodge(self, means: place.Means, python: Interpreter, limits: Limits | None = None) -> Place:
        """A place for one version alone, if its `limits` are given, else for many."""
        base = await self._base(python, log.info)
        if self.config.external:
            guest = await self._engine.background(self._guest)
            return await self._standing(means, await place.join(means, guest, base))
        memory, pids = self._config.memory or LODGING_MEMORY_MB, self._config.pids or LODGING_PIDS
        holdings = Holdings()
        wanted = self._wanted(base.id, holdings, memory, pids)
        try:
            made = await place.start(means, wanted, base, limits, self._given["environments"])
            there = await self._standing(means, made)
        except BaseException:
            holdings.free()
            raise
        there.pair = holdings.pair
        return there

    def _guest(self) -> Guest:
        user = f"{os.geteuid()}:{os.getegid()}" if os.geteuid() else f"{GUEST_UID}:{GUEST_UID}"
        return Guest(self._engine, self._config.container, user)


FROM_THE_SPOT = frozenset(("engine", "owner", "directory", "environments", "cgroups", "egress", "blanks"))
GUEST_UID = 65_533
