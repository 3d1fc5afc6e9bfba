"""A place for sandboxes: a container with the launcher in it, reached by the launcher's channel."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from faaspot_runner.contract import Limits
from faaspot_runner.contract.egress import EgressRule, egress_rules
from faaspot_runner.docker.container import Container, Wanted
from faaspot_runner.docker.engine import Engine
from faaspot_runner.docker.guest import Guest
from faaspot_runner.docker.hatch import CONNECT_SECONDS, INSIDE, Hatch, boot
from faaspot_runner.docker.image import Base
from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox.enclosure import BOOT_AGENT
from faaspot_runner.sandbox.launcher import Plan
from faaspot_runner.sandbox.launchers import AGENT, Launcher
from faaspot_runner.sandbox.mounts import IMAGES_ETC
from faaspot_runner.sandbox.namespaces import UidPair
from faaspot_runner.sandbox.network import Egress, NetworkLease

ENVIRONMENTS = "/run/environments"
"""Where the spot's environments are in a container that is for more than one version."""


@dataclass(kw_only=True)
class Place:
    """A container in which sandboxes can be made.

    `environments`: it has all of the spot's, not one of its own at /env. `shared`: by the sandboxes of many versions.
    """

    container: Container
    launcher: Launcher
    base: Base
    environments: bool = False
    shared: bool = False
    pair: UidPair | None = None

    def oom_kills(self) -> int:
        return self.container.oom_kills()

    async def removal(self, call: Callable[[bool], None], dead: bool) -> None:
        await self.container.engine.removal(call, dead)

    def remove(self) -> bool:
        """End the launcher, and take the container away."""
        self.launcher.close()
        gone = self.container.remove()
        if gone and self.pair is not None:
            self.pair.release()
        return gone

    def plan(
        self,
        *,
        environ: Mapping[str, str],
        rlimits: Sequence[tuple[int, int, int]],
        tmp_mb: int,
        counted: bool,
        environment: str | None = None,
        internet: bool = False,
    ) -> Plan:
        """The plan of a sandbox here: all of the image, its interpreter at /python, the environment at /env.

        `counted`: a cgroup counts its memory. `internet`: it has the container's network, else one of its own that
        leads nowhere.
        """
        target = self.base.target
        files = {f"/agent/agent/{path.name}": path.read_text() for path in sorted(AGENT.glob("*.py"))}
        links = {"/python": self.base.prefix}
        binds = []
        executable = f"/python/bin/python{target.version}"
        if environment is not None:
            source = f"{ENVIRONMENTS}/{environment}" if self.environments else "/env"
            binds.append([source, "/env"])
        else:
            files["/env/pyvenv.cfg"] = "home = /python/bin\ninclude-system-site-packages = false\n"
            for name in ("python", "python3", f"python{target.version}"):
                links[f"/env/bin/{name}"] = executable
        lease = self.container.lease
        if internet and lease is not None:
            files["/etc/resolv.conf"] = lease.resolv_conf
        elif internet:  # a guest's own network, with the name servers that its engine gave it
            links["/etc/resolv.conf"] = f"{IMAGES_ETC}/resolv.conf"
        return Plan(
            uid_map=None,
            binds=binds,
            files=files,
            links=links,
            tmp_mb=tmp_mb,
            argv=["/env/bin/python", "-I", "-c", BOOT_AGENT],
            environ=dict(environ),
            executable=executable,
            rlimits=[list(limit) for limit in rlimits],
            counted=counted,
            more=["mounts"],
            image=True,
            own_network=not internet,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a spot makes places with. `directory`: for hatches; `program`: the launcher's; `egress`: the way out."""

    engine: Engine
    directory: Path
    program: Path
    egress: Egress | None


async def start(
    means: Means, wanted: Wanted, base: Base, limits: Limits | None = None, environments: Path | None = None
) -> Place:
    """A new place, in a container of its own. Raises SandboxError, and nothing is left then.

    `limits`: of the version that it is for alone, whose way out it gets; one for many has none.
    """
    with _hatch(means, means.directory) as hatch:
        async with contextlib.AsyncExitStack() as failing:
            binds = {hatch.path: INSIDE, **({environments: ENVIRONMENTS} if environments else {})}
            made = replace(wanted, command=_command(base, INSIDE), binds=binds, volumes=base.volumes)
            container = await _started(means.engine, made)
            failing.push_async_callback(means.engine.removal, container.remove)
            channel = await hatch.connected(container, CONNECT_SECONDS)  # whose peer proves the engine's word of a pid
            failing.callback(channel.close)
            if limits is not None and limits.network == "internet":
                rules = egress_rules(limits.egress)
                container.lease = await asyncio.to_thread(_connect, means.egress, container, rules)
            failing.pop_all()
    return Place(container=container, launcher=Launcher(channel), base=base, environments=environments is not None)


async def join(means: Means, guest: Guest, base: Base) -> Place:
    """A place in a container that the user runs: a launcher of ours is started in it. Raises SandboxError."""
    with _hatch(means, guest.shared) as hatch:
        await means.engine.background(guest.execute, _command(base, f"{INSIDE}/{hatch.path.name}"))
        channel = await hatch.connected(guest, CONNECT_SECONDS)
    return Place(container=guest, launcher=Launcher(channel), base=base, environments=guest.environments)


def _command(base: Base, inside: str) -> tuple[str, ...]:
    return (f"{base.prefix}/bin/python{base.target.version}", "-I", "-S", "-B", "-c", boot(inside))


@contextlib.contextmanager
def _hatch(means: Means, directory: Path) -> Iterator[Hatch]:
    try:
        hatch = Hatch(directory, means.program)
    except OSError as error:
        raise SandboxError(f"no hatch for a container in {directory}: {error}", reason="no_spot") from error
    try:
        yield hatch
    finally:
        hatch.close()


async def _started(engine: Engine, wanted: Wanted) -> Container:
    """Start it in a thread; a caller who is cancelled meanwhile leaves no container."""
    starting = asyncio.create_task(engine.background(Container.start, engine, wanted))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        container = (await asyncio.gather(starting, return_exceptions=True))[0]
        if isinstance(container, Container):
            await engine.removal(container.remove)
        raise


def _connect(egress: Egress | None, container: Container, rules: Sequence[EgressRule] | None) -> NetworkLease:
    """Give the container's empty network a way out to public addresses, or what `rules` list. Raises SandboxError.

    Its pid must be proven: as root this changes whatever network that process has.
    """
    if egress is None:
        raise SandboxError("This spot does not offer network internet; `fas doctor` says why.", reason="no_spot")
    try:
        with open(f"/proc/{container.pid}/ns/net") as namespace, open("/proc/self/ns/net") as ours:
            if os.path.samestat(os.fstat(namespace.fileno()), os.fstat(ours.fileno())):
                raise SandboxError("the container has this machine's own network", reason="no_spot")
            return egress.lease_in(namespace.fileno(), rules)
    except OSError as error:
        raise SandboxError(f"the container got no way out: {error}") from error
