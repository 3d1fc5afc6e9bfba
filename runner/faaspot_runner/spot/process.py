"""The start and the end of a spot's process: what it needs, what a dead predecessor left, what it leaves: nothing."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from faaspot_runner import log as log_module
from faaspot_runner import settings as settings_module
from faaspot_runner.docker.engine import Engine, Owner
from faaspot_runner.environments.interpreters import discover
from faaspot_runner.errors import DeploymentError, FeatureMissing, SandboxError
from faaspot_runner.lifeline import die_with, many_descriptors
from faaspot_runner.sandbox import container, features
from faaspot_runner.sandbox.cgroup_tree import CgroupsUnavailable
from faaspot_runner.sandbox.cgroups import Cgroups, detect
from faaspot_runner.sandbox.network import Egress, EgressUnavailable
from faaspot_runner.settings import SettingError, Settings
from faaspot_runner.spot.broker import Broker
from faaspot_runner.spot.engine import EngineWatch
from faaspot_runner.spot.ground import Ground
from faaspot_runner.worker import environments

log = logging.getLogger(__name__)

USAGE, MISSING, FAILED, SHUT_OUT = 2, 3, 1, 4
"""Exit codes. MISSING: this machine lacks what isolation needs; a restart will not help, the text says what to do.
SHUT_OUT: Redis does not know this spot, on another host, any more: it has to be let in again.
"""


def main(argv: Sequence[str]) -> int:
    """Run a spot until SIGTERM or SIGINT."""
    try:
        settings = settings_module.read(argv)
    except SettingError as error:
        return _said(USAGE, str(error))
    if settings.parent_pid:
        die_with(settings.parent_pid)
    log_module.configure(settings.log_level, f"spot {settings.ip}")
    many_descriptors()
    try:
        shut_out = asyncio.run(_run(settings))
    except FeatureMissing as error:
        return _said(MISSING, str(error))
    except (SandboxError, DeploymentError, OSError) as error:
        return _said(FAILED, f"spot {settings.ip} cannot run: {error}")
    return SHUT_OUT if shut_out else 0


def _said(code: int, text: str) -> int:
    sys.stderr.write(text + "\n")
    return code


async def _run(settings: Settings) -> bool:
    """Until it is told to stop; whether it was shut out."""
    runtimes, problems = _runtimes(settings)
    name = f"{settings.ip.replace(':', '-')}-{_platform(settings)}"
    cgroups, egress, watch = None, None, None
    if "sandbox" in runtimes:
        cgroups = _cgroups(name, problems)
        egress = _egress(name, problems)
        watch = _watch(settings) if settings.docker else None
    try:
        _empty(settings.home)
        (settings.home / "process").mkdir(mode=0o700)
        ground = _ground(settings, runtimes, cgroups, egress, watch, tuple(problems))
        if watch is not None:
            await asyncio.to_thread(watch.begin)
        broker = Broker(ground)
        await broker.run()
        return broker.shut_out
    finally:
        if watch is not None:
            watch.end()
        if egress is not None:
            egress.close()
        if cgroups is not None:
            cgroups.close()
        _empty(settings.home)


def _platform(settings: Settings) -> str:
    """A short name for what the platform makes on this machine: its own alone, and the same after a restart.

    All containers have their data directory in the same place, and may see each other's cgroups.
    """
    host = platform.node() if container.found() is not None else ""
    return hashlib.sha256(f"{host}{settings.data_dir}".encode()).hexdigest()[:10]


def _watch(settings: Settings) -> EngineWatch:
    engine = Engine(settings.docker_host, settings_module.environment())
    owner = Owner(platform=_platform(settings), spot=settings.ip)
    return EngineWatch(engine, owner, lambda name: (settings.data_dir / "environments" / name).is_dir())


def _runtimes(settings: Settings) -> tuple[tuple[str, ...], list[str]]:
    """The runtimes to offer, and why one is not. Raises FeatureMissing if isolation was asked for in vain."""
    process = ("process",) if settings.allow_process else ()
    if process:
        log.warning("the runtime `process` is offered: its functions run with this platform's rights, for development")
    if settings.runtime == "process":
        return process, []
    missing = features.missing_for_sandbox()
    if not missing:
        return ("sandbox", *process), []
    if not process:
        raise FeatureMissing(*features.refusal(missing))
    texts = [f"{feature.name} is missing ({feature.needed_for}): {feature.what_to_do}" for feature in missing]
    return process, [f"runtime sandbox: {text}" for text in texts]


def _cgroups(name: str, problems: list[str]) -> Cgroups | None:
    """The spot's groups, without what a dead predecessor left in them; None in the rlimit grade."""
    cgroups = Cgroups.open(name)
    if cgroups is None:
        try:
            detect()
        except CgroupsUnavailable as error:
            problems.append(f"limits cgroup: {error}")
        return None
    left = cgroups.sweep()
    if left:
        problems.append(f"{left} cgroups of an earlier run could not be removed: a process in them does not die")
    return cgroups


def _egress(name: str, problems: list[str]) -> Egress | None:
    try:
        egress = Egress.open(name)
    except EgressUnavailable as error:
        problems.append(f"network internet: {error}")
        return None
    if egress.unlisted is not None:
        problems.append(f"egress: {egress.unlisted}")
    return egress


def _ground(
    settings: Settings,
    runtimes: tuple[str, ...],
    cgroups: Cgroups | None,
    egress: Egress | None,
    watch: EngineWatch | None,
    problems: tuple[str, ...],
) -> Ground:
    interpreters = discover(settings_module.environment())
    if not interpreters:
        raise FeatureMissing("a CPython 3.8 or newer", "install python3 where this user can start it")
    known = environments(settings, interpreters, cgroups)
    known.sweep()
    return Ground(
        settings=settings,
        runtimes=runtimes,
        interpreters=interpreters,
        environments=known,
        cgroups=cgroups,
        egress=egress,
        watch=watch,
        problems=problems,
    )


def _empty(home: Path) -> None:
    """Make the spot's own directory and take everything out of it but when the spot was made."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for entry in home.iterdir():
        if entry.name == "spot.json":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
