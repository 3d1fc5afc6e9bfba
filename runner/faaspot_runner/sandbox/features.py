"""What the kernel of this machine lets us do, found by trying (`probes.py`), never by version numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from faaspot_runner.sandbox import container
from faaspot_runner.sandbox.limits import why_no_cgroups

PROBE_SECONDS = 20
APPARMOR_SWITCH = "kernel/apparmor_restrict_unprivileged_userns"


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One thing that was tried. `required`: the sandbox runtime is refused without it. `detail`: the kernel's words."""

    name: str
    present: bool
    required: bool
    needed_for: str
    what_to_do: str
    detail: str = ""


NEEDED_FOR = {
    "user namespaces": "no process of a function has a right on the host",
    "pid namespaces": "a run sees and signals only its own processes, and dies as a whole",
    "network namespaces": "a run reaches neither the host nor its services",
    "ipc namespaces": "no shared memory or message queue of the host",
    "uts namespaces": "the host's name stays unknown",
    "cgroup namespaces": "the host's groups stay unknown",
    "tmpfs in a user namespace": "a fresh /tmp and /dev/shm with a size for every run",
    "proc with subset=pid": "a /proc that shows processes and no settings of the kernel",
    "mount_setattr": "code and packages read-only, with everything mounted below them",
    "pivot_root": "a root of its own, out of which no path leads",
    "no_new_privs": "set-user-id programs give nothing",
    "seccomp filters": "only listed system calls",
    "libseccomp": "building the list of system calls",
    "pidfd": "killing a run and never another process",
    "close_range": "no descriptor of the platform in a sandbox",
    "/proc/PID/task/*/children": "adding up the memory of a run where no cgroup does",
    "smaps_rollup": "counting memory that processes share only once where no cgroup does",
    "Landlock": "nothing yet: a second wall around files",
}
OPTIONAL = frozenset({"Landlock"})
OF_THE_RLIMIT_GRADE = frozenset({"/proc/PID/task/*/children", "smaps_rollup"})
KERNELS = {
    "proc with subset=pid": "Linux 5.8",
    "mount_setattr": "Linux 5.12",
    "close_range": "Linux 5.9",
    "pidfd": "Linux 5.3",
    "smaps_rollup": "Linux 5.4",
    "Landlock": "Linux 5.13, and landlock in the boot parameter lsm=",
    "seccomp filters": "a kernel with CONFIG_SECCOMP_FILTER",
    "/proc/PID/task/*/children": "a kernel with CONFIG_PROC_CHILDREN",
}


def probe() -> tuple[Feature, ...]:
    """Try everything, in well under 200 ms, and leave nothing behind.

    Raises RuntimeError if the probing itself fails.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "faaspot_runner.sandbox.probes"],
            capture_output=True,
            check=True,
            timeout=PROBE_SECONDS,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        failures: dict[str, str] = json.loads(done.stdout)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        said = getattr(error, "stderr", None) or b""
        raise RuntimeError(
            f"the kernel's features could not be tried: {error} {said.decode(errors='replace')}"
        ) from error
    return tuple(_feature(name, failure) for name, failure in failures.items())


@cache
def missing_for_sandbox() -> tuple[Feature, ...]:
    """The features without which the sandbox runtime is refused; empty when it can be offered. Tried once."""
    return tuple(feature for feature in probe() if feature.required and not feature.present)


def refusal(missing: Sequence[Feature]) -> tuple[str, str]:
    """What is missing and what to do, as two texts; what the same step gives is named together."""
    steps: dict[str, list[str]] = {}
    for feature in missing:
        steps.setdefault(feature.what_to_do, []).append(feature.name)
    inside = container.found()
    advice = inside.advice(feature.detail for feature in missing) if inside is not None else ""
    if advice:
        return ", ".join(feature.name for feature in missing), advice
    first, *others = steps.items()
    return ", ".join(first[1]), "; ".join([first[0], *(f"{', '.join(names)}: {step}" for step, names in others)])


def _feature(name: str, failure: str) -> Feature:
    required = name not in OPTIONAL and not (name in OF_THE_RLIMIT_GRADE and not why_no_cgroups())
    return Feature(
        name=name,
        present=not failure,
        required=required,
        needed_for=NEEDED_FOR[name],
        what_to_do=_what_to_do(name, failure) if failure else "",
        detail=failure,
    )


def _what_to_do(name: str, failure: str) -> str:
    if name == "libseccomp":
        if "pyseccomp" in failure:
            return "install the platform with its server part: pip install 'faaspot[server]'"
        return "install libseccomp (Debian, Ubuntu: apt-get install libseccomp2; Fedora: dnf install libseccomp)"
    inside = container.found()
    found = [inside.advice([failure])] if inside is not None else []
    if name not in KERNELS or "unshare" in failure:
        found.append(_switch_of_the_host() if inside is not None else _switch())
    return "; ".join(filter(None, found)) or f"it needs {KERNELS.get(name, 'a kernel with CONFIG_USER_NS')}"


def _switch() -> str:
    """Which of the known switches keeps user namespaces from us; empty if none does."""
    if os.geteuid() != 0 and _sysctl(APPARMOR_SWITCH) == "1":
        return (
            "AppArmor keeps capabilities from user namespaces (Ubuntu 23.10 and later). Allow them to all programs: "
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (and in /etc/sysctl.d/ to keep it), or to this "
            "one: write /etc/apparmor.d/faaspot with "
            f"'abi <abi/4.0>, profile faaspot {os.path.realpath(sys.executable)} flags=(unconfined) {{ userns, }}' and "
            "load it: apparmor_parser -r /etc/apparmor.d/faaspot"
        )
    if os.geteuid() != 0 and _sysctl("kernel/unprivileged_userns_clone") == "0":
        return "sysctl -w kernel.unprivileged_userns_clone=1 (and in /etc/sysctl.d/ to keep it), or start as root"
    if _sysctl("user/max_user_namespaces") == "0":
        return "sysctl -w user.max_user_namespaces=15000 (and in /etc/sysctl.d/ to keep it)"
    return ""


def _switch_of_the_host() -> str:
    """The same in a container, whose kernel is the host's. Its root is no exception without CAP_SYS_ADMIN."""
    step = next(closed(), "")
    return f"on the host: {step} (and in /etc/sysctl.d/ to keep it)" if step else ""


def closed() -> Iterator[str]:
    """The steps for settings of the kernel that keep an ordinary user from making user namespaces."""
    for name, refuses, value in (
        (APPARMOR_SWITCH, "1", 0),
        ("kernel/unprivileged_userns_clone", "0", 1),
        ("user/max_user_namespaces", "0", 15000),
    ):
        if _sysctl(name) == refuses:
            yield f"sysctl -w {name.replace('/', '.')}={value}"


def _sysctl(name: str) -> str | None:
    """The value of a setting of the kernel; None if it has no such setting, or shows none."""
    path = Path("/proc/sys") / name
    try:
        return path.read_text().strip()
    except OSError:
        return None
