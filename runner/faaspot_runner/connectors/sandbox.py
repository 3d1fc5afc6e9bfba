"""The runtime `sandbox`: namespaces, seccomp, no capabilities; the default."""

from __future__ import annotations

import asyncio
import os
import resource
import time
import uuid
from typing import Any

from faaspot_runner.connectors.base import Connector, DeploymentConfig, Sandbox
from faaspot_runner.connectors.zygote import ZygoteSandbox
from faaspot_runner.contract import Limits, SandboxSpec
from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox import seccomp
from faaspot_runner.sandbox.cgroups import Cgroups
from faaspot_runner.sandbox.enclosure import BOOT_AGENT, Holdings, Launcher, enclose, memory_file, plan_for
from faaspot_runner.sandbox.limits import ZYGOTE_MEMORY_MB, ZYGOTE_PIDS, Grade, rlimits
from faaspot_runner.sandbox.namespaces import USER_INSIDE
from faaspot_runner.sandbox.network import Egress
from faaspot_runner.sandbox.spec import BASE_ENVIRON, Material


class SandboxConnector(Connector):
    """Config keys: `cgroups` (a `Cgroups`, or None: the rlimit grade), `egress` (an `Egress`, or None: no internet),
    `runs` (how many there can be at once; 1)."""

    def __init__(self, config: DeploymentConfig, inner: Connector | None = None) -> None:
        super().__init__(config, inner)
        self._cgroups: Cgroups | None = config.config.get("cgroups")
        self._egress: Egress | None = config.config.get("egress")
        self._runs: int = config.config.get("runs", 1)
        self._launcher: Launcher | None = None
        self._sandboxes: set[ZygoteSandbox] = set()

    async def deploy(self, external: bool) -> None:
        """Build the filters and the launcher. Raises FeatureMissing."""
        seccomp.zygote_filter(counted=self._cgroups is not None)
        seccomp.run_filter()
        if self._cgroups is None:
            seccomp.buffers_filter()
        self._launcher = Launcher()

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
        name = uuid.uuid4().hex
        grade: Grade = "cgroup" if self._cgroups else "rlimit"
        holdings = await asyncio.to_thread(self._hold, name, spec.limits, self._launcher)
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
            enclosure = await enclose(self._launcher, plan, fds, holdings, start_message(spec.limits, grade))
        sandbox = ZygoteSandbox(name, spec, enclosure)
        if grade == "rlimit":
            sandbox.guard(self._runs)
        self._sandboxes.add(sandbox)
        sandbox.on_stop = lambda: self._sandboxes.discard(sandbox)
        await sandbox.ready(deadline, started)
        return sandbox

    def _hold(self, name: str, limits: Limits, launcher: Launcher) -> Holdings:
        """The uid pair, cgroup and network of a new sandbox. Raises SandboxError and holds nothing then."""
        held = Holdings()
        try:
            if os.geteuid() == 0:
                held.pair = launcher.pairs.acquire()
            if self._cgroups is not None:
                memory, pids = limits.memory + ZYGOTE_MEMORY_MB, limits.pids + ZYGOTE_PIDS
                held.group = self._cgroups.sandbox_group(name, memory_mb=memory, pids=pids)
            if limits.network == "internet":
                held.lease = self._lease()
        except (OSError, SandboxError) as error:
            held.free()
            raise (
                error if isinstance(error, SandboxError) else SandboxError(f"no room for a sandbox: {error}")
            ) from error
        return held

    def _lease(self) -> Any:
        if self._egress is None:
            raise SandboxError("this spot does not offer network: internet; `fas doctor` says why")
        return self._egress.lease()


def zygote_rlimits(limits: Limits, grade: Grade) -> list[tuple[int, int, int]]:
    """What holds for the zygote and cannot be taken back in its runs: more files and processes than one run has."""
    more = {resource.RLIMIT_NOFILE: 4096, resource.RLIMIT_NPROC: limits.pids + 1024}
    kept = []
    for kind, soft, hard in rlimits(limits, grade):
        if kind in more:
            soft = hard = min(more[kind], _most(kind))
        elif kind == resource.RLIMIT_CPU:
            continue  # a zygote lives for long
        elif kind == resource.RLIMIT_DATA:
            soft = hard = hard + ZYGOTE_MEMORY_MB * 2**20
        elif kind == resource.RLIMIT_STACK and grade == "rlimit":
            soft = 2 * 2**20  # libc gives every thread this much, and all of it is counted as data
        kept.append((kind, soft, hard))
    return kept


def _most(kind: int) -> int:
    hard = resource.getrlimit(kind)[1]
    return 2**31 if hard == resource.RLIM_INFINITY else hard


def start_message(limits: Limits, grade: Grade) -> dict[str, Any]:
    """The first message to an agent in a sandbox: `agent.child.Config`."""
    return {
        "isolated": True,
        "uid": USER_INSIDE if os.geteuid() == 0 else None,
        "rlimits": rlimits(limits, grade),
        "filter": seccomp.run_filter().hex(),
        "code": "/code",
        "packages": None,
    }
