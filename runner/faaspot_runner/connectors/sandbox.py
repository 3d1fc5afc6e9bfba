"""The runtime `sandbox`: namespaces, seccomp, no capabilities; the default."""

from __future__ import annotations

import asyncio
import os
import time
import uuid

from faaspot_runner.connectors.base import Connector, DeploymentConfig, Log, Sandbox
from faaspot_runner.connectors.limits import start_message, zygote_rlimits
from faaspot_runner.connectors.placed import open_in
from faaspot_runner.connectors.zygote import ZygoteSandbox
from faaspot_runner.contract import Limits, SandboxSpec
from faaspot_runner.contract.egress import egress_rules
from faaspot_runner.errors import DeploymentDefinitionError, SandboxError
from faaspot_runner.sandbox import seccomp
from faaspot_runner.sandbox.cgroups import Cgroups
from faaspot_runner.sandbox.enclosure import BOOT_AGENT, LauncherProcess, enclose, memory_file, plan_for
from faaspot_runner.sandbox.holdings import Holdings
from faaspot_runner.sandbox.limits import ZYGOTE_MEMORY_MB, ZYGOTE_PIDS, Grade
from faaspot_runner.sandbox.network import Egress, NetworkLease
from faaspot_runner.sandbox.spec import BASE_ENVIRON, Interpreter, Material


class SandboxConnector(Connector):
    """Config keys, all from the spot: `cgroups` (a `Cgroups`, or None: the rlimit grade), `egress` (an `Egress`, or
    None: no internet), `runs` (how many there can be at once; 1).

    On top of a runtime of type docker (`wraps`) the sandboxes are made in one container of it, of the user's image, and
    walled off from each other there. One that asks for network internet gets a container of its own, because the
    network is a container's.
    """

    can_wrap = True

    def __init__(self, config: DeploymentConfig, inner: Connector | None = None) -> None:
        super().__init__(config, inner)
        self._cgroups: Cgroups | None = config.config.get("cgroups")
        self._egress: Egress | None = config.config.get("egress")
        self._runs: int = config.config.get("runs", 1)
        self._launcher: LauncherProcess | None = None
        self._sandboxes: set[ZygoteSandbox] = set()

    async def deploy(self, external: bool) -> None:
        """Build the filters and the launcher. Raises FeatureMissing, DeploymentDefinitionError."""
        if self.inner is not None and not self.inner.can_lodge:
            below = self.inner.config
            raise DeploymentDefinitionError(
                self.config.name,
                f"The runtime `{self.config.name}` wraps `{below.name}`, and no sandbox can be made in the type "
                f"`{below.type}`. Let it wrap one of type `docker`, or remove `wraps`.",
            )
        seccomp.zygote_filter(counted=self._cgroups is not None)
        seccomp.programs(counted=self._cgroups is not None)
        seccomp.run_filter()
        self._launcher = LauncherProcess()

    async def undeploy(self, external: bool) -> None:
        await asyncio.gather(*(sandbox.stop() for sandbox in list(self._sandboxes)))
        self._sandboxes.clear()
        if self._launcher is not None:
            await asyncio.to_thread(self._launcher.close)
            self._launcher = None

    async def open(self, spec: SandboxSpec, material: Material, deadline: float) -> Sandbox:
        if self._launcher is None:
            raise SandboxError(f"the runtime {self.config.name} is not deployed")
        started = time.monotonic()
        if self.inner is None:
            sandbox = await self._enclosed(self._launcher, spec, material)
        else:
            place = await self.inner.lodging(spec, material)
            holdings = Holdings(housing=None if place.shared else place)
            sandbox = await open_in(place, spec, material, holdings, self._grade)
        sandbox.guard(self._runs)
        self._sandboxes.add(sandbox)
        sandbox.on_stop = lambda: self._sandboxes.discard(sandbox)
        await sandbox.ready(deadline, started)
        return sandbox

    async def interpreter(self, python: Interpreter, log: Log) -> Interpreter:
        return await self.inner.interpreter(python, log) if self.inner else python

    @property
    def _grade(self) -> Grade:
        return "cgroup" if self._cgroups else "rlimit"

    async def _enclosed(self, launcher: LauncherProcess, spec: SandboxSpec, material: Material) -> ZygoteSandbox:
        """A sandbox on this machine's own system. Raises SandboxError."""
        name, grade = uuid.uuid4().hex, self._grade
        holdings = await asyncio.to_thread(self._hold, name, spec.limits, launcher)
        async with holdings.kept():
            plan = plan_for(
                material.python,
                program=BOOT_AGENT,
                pair=holdings.pair,
                environ=BASE_ENVIRON,
                rlimits=zygote_rlimits(spec.limits, grade),
                tmp_mb=spec.limits.tmp,
                counted=grade == "cgroup",
                environment=material.environment,
                more=["mounts"],
                resolv_conf=holdings.lease.resolv_conf if holdings.lease else None,
            )
            with memory_file(material.source()) as code:
                fds = {"file:/code/main.py": code}
                start = start_message(spec, grade, uids=2 if holdings.pair else 1)
                enclosure = await enclose(launcher, plan, fds, holdings, start)
        return ZygoteSandbox(name, spec, enclosure, counted=grade == "cgroup")

    def _hold(self, name: str, limits: Limits, launcher: LauncherProcess) -> Holdings:
        """The uid pair, cgroup and network of a new sandbox. Raises SandboxError and holds nothing then."""
        held = Holdings()
        try:
            if os.geteuid() == 0:
                held.pair = launcher.pairs.acquire()
            if self._cgroups is not None:
                memory, pids = limits.memory + ZYGOTE_MEMORY_MB, limits.pids + ZYGOTE_PIDS
                held.group = self._cgroups.sandbox_group(name, memory_mb=memory, pids=pids)
            if limits.network == "internet":
                held.lease = self._lease(limits.egress)
        except (OSError, SandboxError) as error:
            held.free()
            raise (
                error if isinstance(error, SandboxError) else SandboxError(f"no room for a sandbox: {error}")
            ) from error
        return held

    def _lease(self, listed: tuple[str, ...] | None) -> NetworkLease:
        if self._egress is None:
            raise SandboxError("this spot does not offer network: internet; `fas doctor` says why")
        return self._egress.lease(egress_rules(listed))
