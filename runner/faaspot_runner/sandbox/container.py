"""Whether this process runs in a container, what its engine keeps back from sandboxes, and which option gives it.

Read from /proc alone: no engine is asked, and one that is not Docker is told of by Docker's words, which they share.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MARKS = ("/.dockerenv", "/run/.containerenv", "/dev/termination-log", "/run/secrets/kubernetes.io")
"""Files that Docker, Podman and Kubernetes leave in every container, also if an image of it later boots a machine."""
INITIAL = {"pid": 0xEFFFFFFC, "uts": 0xEFFFFFFE, "ipc": 0xEFFFFFFF}
"""The kernel's numbers of its first namespaces: a process in all of them is in no container."""

SECCOMP = "--security-opt seccomp=seccomp.json"
SYSTEM_PATHS = "--security-opt systempaths=unconfined"
APPARMOR = "--security-opt apparmor=unconfined"
SELINUX = "--security-opt label=disable"
CGROUPS = "--user 0 --cgroupns host -v /sys/fs/cgroup:/sys/fs/cgroup"
"""What gives the platform cgroups; also the power over those of everything else on the host."""

CAPABILITIES = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7,
    "NET_ADMIN": 12, "SYS_ADMIN": 21, "SETFCAP": 31,
}  # fmt: skip
OF_ROOT = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETFCAP", "SETGID", "SETUID")
"""What the platform needs if it is root: users of their own for sandboxes and services, and to signal them."""
PROFILE = "`docker run --rm IMAGE python3 -m faaspot_runner.sandbox.profile` prints seccomp.json"

_BY_A_FILTER = re.compile(r"\[Errno (1|38)\] (?!mount /proc)[^:]+:")
_BY_A_LABEL = "[Errno 13]"
_PROC = "mount /proc"
_FREE = re.compile(":(unconfined|spc)_t:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What the engine did to us.

    `filtered`: a seccomp filter is on us. `covered`: parts of /proc with a mount over them; while there is one, the
    kernel gives no user namespace a /proc of its own. `label`: the profile of AppArmor or context of SELinux that
    confines us, or empty. `capabilities`: names of those in `CAPABILITIES` that we have.
    """

    filtered: bool
    covered: tuple[str, ...]
    label: str
    capabilities: tuple[str, ...]

    def options(self, failures: Iterable[str]) -> tuple[str, ...]:
        """The engine's options that the failed probes lacked, by what each said; none if it is not the engine's doing.

        What stands behind a wall that the probes met first is told, too: one start shall do.
        """
        failures = tuple(failures)
        by_a_filter = self.filtered and any(map(_BY_A_FILTER.match, failures))
        wanted = [SECCOMP] if by_a_filter else []
        if self.covered and (by_a_filter or any(_PROC in text for text in failures)):
            wanted.append(SYSTEM_PATHS)
        if self.label and (by_a_filter or any(text.startswith(_BY_A_LABEL) for text in failures)):
            wanted.append(SELINUX if ":" in self.label else APPARMOR)
        return (*wanted, *self.lacking()) if any(failures) else ()

    def lacking(self) -> tuple[str, ...]:
        """The options for what the platform needs if it is root."""
        names = OF_ROOT if os.geteuid() == 0 else ()
        return tuple(f"--cap-add {name}" for name in names if name not in self.capabilities)

    def advice(self, failures: Iterable[str]) -> str:
        """The same as words for a person, empty if there is nothing to say."""
        wanted = self.options(failures)
        hint = f" ({PROFILE})" if SECCOMP in wanted else ""
        return f"start the container with {' '.join(wanted)}{hint}" if wanted else ""


def found(proc: Path = Path("/proc/self"), marks: Sequence[str] = MARKS) -> Container | None:
    """The container that this process is in, None on a plain host."""
    ours = {kind: os.readlink(proc / "ns" / kind) for kind in INITIAL}
    first = all(ours[kind] == f"{kind}:[{number}]" for kind, number in INITIAL.items())
    if first or not any(Path(mark).exists() for mark in marks):
        return None
    status = dict(line.partition(":")[::2] for line in (proc / "status").read_text().splitlines())
    held = int(status["CapEff"], 16)
    points = [line.split(" ")[4] for line in (proc / "mountinfo").read_text().splitlines()]
    return Container(
        filtered=status.get("Seccomp", "").strip() == "2",
        covered=tuple(point for point in points if point.startswith("/proc/")),
        label=_label(proc),
        capabilities=tuple(name for name, bit in CAPABILITIES.items() if held >> bit & 1),
    )


def _label(proc: Path) -> str:
    """As AppArmor or SELinux has it in /proc; empty where neither confines us."""
    for name in ("attr/apparmor/current", "attr/current"):
        try:
            text = (proc / name).read_text().strip("\0\n ")
        except OSError:
            continue
        profile = text.removesuffix("(enforce)").strip()
        return "" if profile.startswith("unconfined") or _FREE.search(profile) else profile
    return ""
