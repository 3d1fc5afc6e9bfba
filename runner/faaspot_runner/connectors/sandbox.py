"""The runtime `sandbox`: namespaces, seccomp, no capabilities; the default."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import Collection
from pathlib import Path

from faaspot_runner.connectors.base import Connector, DeploymentConfig, Log, Sandbox
from faaspot_runner.connectors.blanks import Blanks, Waiting
from faaspot_runner.connectors.limits import STACKS, start_message, zygote_rlimits
from faaspot_runner.connectors.placed import open_in
from faaspot_runner.connectors.zygote import ZygoteSandbox
from faaspot_runner.contract import Limits, SandboxSpec
from faaspot_runner.contract.egress import egress_rules
from faaspot_runner.errors import DeploymentDefinitionError, SandboxError
from faaspot_runner.sandbox import seccomp
from faaspot_runner.sandbox.cgroups import Cgroups
from faaspot_runner.sandbox.enclosure import BOOT_AGENT, base_of, enclose, plan_for
from faaspot_runner.sandbox.holdings import Holdings
from faaspot_runner.sandbox.launchers import LauncherProcess, memory_file
from faaspot_runner.sandbox.limits import ZYGOTE_MEMORY_MB, ZYGOTE_PIDS, Grade
from faaspot_runner.sandbox.namespaces import UidPairs
from faaspot_runner.sandbox.network import Egress, NetworkLease
from faaspot_runner.sandbox.spec import BASE_ENVIRON, Interpreter, Material


class SandboxConnector(Connector):
    """Config keys, all from the spot: `cgroups` (a `Cgroups`, or None: the rlimit grade), `egress` (an `Egress`, or
    None: no internet), `runs` (how many there can be at once; 1), `blanks` (kinds of sandboxes that stand ready; 0),
    `shared_start` (whether zygotes are forked from an interpreter that has started; True).

    On top of a runtime of type docker (`wraps`) the sandboxes are made in one container of it, of the user's image, and
    walled off from each other there. One that asks for network internet gets a container of its own, because the
    network is a container's.
    """

    can_wrap = True

    def __init__(self, config: DeploymentConfig, inner: Connector | None = None) -> None:
        super().__init__(config, inner)
        self._cgroups: Cgroups | None = config.config.get("cgroups")
        self._egress: Egress | None = config.config.get("egress")
        self._shared_start: bool = config.config.get("shared_start", True)
        self._runs: int = config.config.get("runs", 1)
        self.blanks = Blanks(self._enclosed, kinds=config.config.get("blanks", 0))
        self._up = False
        self._pairs = UidPairs()
        self._launchers: dict[Interpreter, LauncherProcess] = {}
        self._sandboxes: set[ZygoteSandbox] = set()

    async def deploy(self, external: bool) -> None:
        """Build the filters. Raises FeatureMissing, DeploymentDefinitionError."""
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
        self._up = True

    async def undeploy(self, external: bool) -> None:
        await self.blanks.close()
        await asyncio.gather(*(sandbox.stop() for sandbox in list(self._sandboxes)))
        self._sandboxes.clear()
        self._up = False
        await asyncio.gather(*(asyncio.to_thread(each.close) for each in self._launchers.values()))
        self._launchers.clear()

    async def open(self, spec: SandboxSpec, material: Material, deadline: float) -> Sandbox:
        if not self._up:
            raise SandboxError(f"the runtime {self.config.name} is not deployed")
        if self.inner is not None:
            started = time.monotonic()
            place = await self.inner.lodging(spec, material)
            holdings = Holdings(housing=None if place.shared else place)
            sandbox = self._kept(await open_in(place, spec, material, holdings, self._grade))
            await sandbox.ready(deadline, started)
            return sandbox
        return await self.blanks.open(spec, material, deadline)

    def _kept(self, sandbox: ZygoteSandbox) -> ZygoteSandbox:
        """One that was just made, from now on ours to end."""
        sandbox.guard(self._runs)
        self._sandboxes.add(sandbox)
        sandbox.on_stop = lambda: self._sandboxes.discard(sandbox)
        return sandbox

    async def keep(self, python: Interpreter, environment: Path | None, log: Log) -> None:
        if self.inner is None:
            await asyncio.to_thread(self._launcher(python).begin)

    def release(self, version_ids: Collection[str]) -> None:
        self.blanks.release(version_ids)

    @property
    def environments(self) -> frozenset[str]:
        return self.blanks.environments

    async def interpreter(self, python: Interpreter, log: Log) -> Interpreter:
        return await self.inner.interpreter(python, log) if self.inner else python

    @property
    def _grade(self) -> Grade:
        return "cgroup" if self._cgroups else "rlimit"

    def _launcher(self, python: Interpreter) -> LauncherProcess:
        """The base of this interpreter's zygotes."""
        if python not in self._launchers:
            base = base_of(python, BASE_ENVIRON, stack=STACKS[self._grade]) if self._shared_start else None
            self._launchers[python] = LauncherProcess(self._pairs, base)
        return self._launchers[python]

    async def _enclosed(self, spec: SandboxSpec, material: Material, waiting: Waiting | None = None) -> ZygoteSandbox:
        """A sandbox on this machine's own system; `waiting` for its code. Raises SandboxError."""
        name, grade = uuid.uuid4().hex, self._grade
        launcher = self._launcher(material.python)
        if launcher.closed:
            await asyncio.to_thread(launcher.begin)
        holdings = await self._held(name, spec.limits)
        async with holdings.kept():
            plan = plan_for(
                material.python,
                program=None if launcher.based else BOOT_AGENT,
                pair=holdings.pair,
                environ=BASE_ENVIRON,
                rlimits=zygote_rlimits(spec.limits, grade),
                tmp_mb=spec.limits.tmp,
                counted=grade == "cgroup",
                environment=material.environment,
                more=["mounts"],
                resolv_conf=holdings.lease.resolv_conf if holdings.lease else None,
            )
            packages = f"/env/{material.python.site_packages}" if launcher.based and material.environment else None
            with memory_file(material.source()) as code:
                fds = {"code": waiting.code} if waiting else {"file:/code/main.py": code}
                start = start_message(
                    spec,
                    grade,
                    uids=2 if holdings.pair else 1,
                    packages=packages,
                    modules=waiting.modules if waiting else None,
                )
                enclosure = await enclose(launcher, plan, fds, holdings, start)
        return self._kept(ZygoteSandbox(name, spec, enclosure, counted=grade == "cgroup"))

    async def _held(self, name: str, limits: Limits) -> Holdings:
        """`_hold` in a thread. Cancelled, it waits for it, because nobody else would free what that holds."""
        holding = asyncio.ensure_future(asyncio.to_thread(self._hold, name, limits))
        try:
            return await asyncio.shield(holding)
        except asyncio.CancelledError:
            with contextlib.suppress(SandboxError):
                await (await holding).release()
            raise

    def _hold(self, name: str, limits: Limits) -> Holdings:
        """The uid pair, cgroup and network of a new sandbox. Raises SandboxError and holds nothing then."""
        held = Holdings()
        try:
            if os.geteuid() == 0:
                held.pair = self._pairs.acquire()
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
