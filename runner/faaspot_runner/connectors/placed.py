"""A sandbox in a place: what the runtime `docker` opens, and the runtime `sandbox` that stands on one."""

from __future__ import annotations

import uuid

from faaspot_runner.connectors.blanks import Waiting
from faaspot_runner.connectors.limits import start_message, zygote_rlimits
from faaspot_runner.connectors.zygote import ZygoteSandbox
from faaspot_runner.contract import SandboxSpec
from faaspot_runner.docker.place import Place
from faaspot_runner.sandbox.enclosure import enclose
from faaspot_runner.sandbox.holdings import Holdings
from faaspot_runner.sandbox.launchers import memory_file
from faaspot_runner.sandbox.limits import Grade
from faaspot_runner.sandbox.spec import BASE_ENVIRON, Material


async def open_in(
    place: Place,
    spec: SandboxSpec,
    material: Material,
    holdings: Holdings,
    grade: Grade,
    waiting: Waiting | None = None,
) -> ZygoteSandbox:
    """Launch a sandbox there, which then imports the user's module, or is `waiting` for it.

    Raises SandboxError, and has freed `holdings`.
    """
    async with holdings.kept():
        plan = place.plan(
            environ=BASE_ENVIRON,
            rlimits=zygote_rlimits(spec.limits, grade),
            tmp_mb=spec.limits.tmp,
            counted=grade == "cgroup",
            environment=material.environment.name if material.environment else None,
            internet=spec.limits.network == "internet",
        )
        with memory_file(material.source()) as code:
            fds = {"code": waiting.code} if waiting else {"file:/code/main.py": code}
            start = start_message(spec, grade, uids=1, modules=waiting.modules if waiting else None)
            enclosure = await enclose(place.launcher, plan, fds, holdings, start)
    return ZygoteSandbox(uuid.uuid4().hex, spec, enclosure, counted=grade == "cgroup")
