"""What a zygote of ours is told and limited to, whichever runtime it is in."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import Any

from faaspot_runner.contract import Limits, SandboxSpec
from faaspot_runner.sandbox import seccomp
from faaspot_runner.sandbox.cgroup_tree import MEGABYTE
from faaspot_runner.sandbox.kept import LIVES
from faaspot_runner.sandbox.limits import STACK_MB, ZYGOTE_MEMORY_MB, Grade, rlimits
from faaspot_runner.sandbox.namespaces import USER_INSIDE

STACKS: dict[Grade, int] = {"cgroup": STACK_MB * MEGABYTE, "rlimit": 2 * MEGABYTE}
"""Bytes that libc gives every thread. Where no cgroup counts, all of it is counted as data."""


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
        elif kind == resource.RLIMIT_STACK:
            soft = min(soft, STACKS[grade])
        kept.append((kind, soft, hard))
    return kept


def _most(kind: int) -> int:
    hard = resource.getrlimit(kind)[1]
    return 2**31 if hard == resource.RLIM_INFINITY else hard


def start_message(
    spec: SandboxSpec, grade: Grade, *, uids: int, packages: str | None = None, modules: Sequence[str] | None = None
) -> dict[str, Any]:
    """The first message to an agent in a sandbox: `agent.child.Config`. `uids`: how many the sandbox has, 1 or 2.

    `packages`: the directory of its packages, where its interpreter has not found them at its start. `modules`: of a
    blank, which imports them and then waits for its code.
    """
    return {
        "isolated": True,
        "uid": USER_INSIDE if uids == 2 else None,
        "rlimits": rlimits(spec.limits, grade, lives=LIVES if spec.reuse else 1),
        "filter": seccomp.run_filter().hex(),
        "code": "/code",
        "packages": packages,
        "modules": None if modules is None else list(modules),
    }
