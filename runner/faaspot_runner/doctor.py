"""`fas doctor`: can this machine keep what the platform promises, and if not, what to do.

Each check has one of four answers: `ok`; `missing` (a default promise cannot be kept: exit code 1); `weaker` (it works,
but something else would be better); `absent` (an extra that is not offered).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, TextIO

from faaspot_runner import settings
from faaspot_runner.docker import known
from faaspot_runner.docker.engine import Engine
from faaspot_runner.environments.interpreters import discover
from faaspot_runner.errors import EngineError
from faaspot_runner.sandbox import container as containers
from faaspot_runner.sandbox import features, limits
from faaspot_runner.sandbox import network as networks
from faaspot_runner.sandbox.cgroups import detect

Answer = Literal["ok", "missing", "weaker", "absent"]
WIDTH = 118


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at. `text`: what was found; `what_to_do`: empty when nothing is to be done."""

    section: str
    name: str
    answer: Answer
    text: str
    what_to_do: str = ""


def main(argv: Sequence[str]) -> int:
    """Print the table, or with `--json` an object. Returns 1 if a default promise cannot be kept here, else 0."""
    parser = argparse.ArgumentParser(prog="fas doctor", description="Look whether this machine can keep the promises.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object and nothing else.")
    asked = parser.parse_args(argv)
    checks = tuple(examine())
    try:
        if asked.json:
            json.dump(_object(checks), sys.stdout, indent=2)
            sys.stdout.write("\n")
        else:
            _print(checks, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough; the interpreter must not try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if _well(checks) else 1


def examine() -> Iterator[Check]:
    """Every check, section by section."""
    found = features.probe()
    yield from _runtimes(found)
    yield from _container(found)
    yield from _kernel(found)
    yield from _limits()
    yield from _network()
    yield from _docker()
    yield from _interpreters()
    yield from _host()


def _runtimes(found: Sequence[features.Feature]) -> Iterator[Check]:
    lacking = [feature.name for feature in found if feature.required and not feature.present]
    yield Check(
        section="runtimes",
        name="sandbox",
        answer="missing" if lacking else "ok",
        text=f"refused, without {', '.join(lacking)}" if lacking else "offered: all that isolation needs is there",
        what_to_do="see below what each needs" if lacking else "",
    )
    yield Check(
        section="runtimes",
        name="process",
        answer="absent",
        text="isolates nothing, and is offered only where it is asked for",
        what_to_do="on a machine for development alone: fas up --allow-process-runtime",
    )


def _container(found: Sequence[features.Feature]) -> Iterator[Check]:
    """What the engine gives the platform, if it runs in a container."""
    inside = containers.found()
    if inside is None:
        return
    advice = inside.advice(feature.detail for feature in found if feature.required and not feature.present)
    yield Check(
        section="container",
        name="engine",
        answer="missing" if advice else "ok",
        text="keeps back what sandboxes are made of" if advice else "allows what sandboxes are made of",
        what_to_do=advice,
    )
    who, held = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}", inside.capabilities
    yield Check(section="container", name="user", answer="ok", text=f"{who}, capabilities: {', '.join(held) or 'none'}")
    if lacking := inside.lacking():
        yield Check(
            section="container",
            name="capabilities",
            answer="missing",
            text="root lacks some that give sandboxes and services users of their own",
            what_to_do=f"start the container with {' '.join(lacking)}, or without --user: its own user needs none",
        )


def _kernel(found: Sequence[features.Feature]) -> Iterator[Check]:
    for feature in found:
        answer: Answer = "ok" if feature.present else "missing" if feature.required else "absent"
        text = feature.needed_for if feature.present else f"{feature.detail} ({feature.needed_for})"
        yield Check(section="kernel", name=feature.name, answer=answer, text=text, what_to_do=feature.what_to_do)


MECHANISMS = {
    "memory": (
        "of the run as a whole, its files in /tmp too, by its cgroup",
        "RLIMIT_DATA for each process, and a watch that adds up the run's and kills it, several times a second",
    ),
    "processes": ("by the run's cgroup", "RLIMIT_NPROC, together for the runs of one sandbox"),
    "time": ("a deadline, and RLIMIT_CPU behind it",) * 2,
    "disk": ("a tmpfs with a size and an inode limit for each run, and RLIMIT_FSIZE",) * 2,
}
"""What keeps each limit: in the grade cgroup, and what is used instead in the grade rlimit."""


def _limits() -> Iterator[Check]:
    reason = limits.why_no_cgroups()
    yield from _grade(reason)
    for name, (by_cgroup, by_rlimit) in MECHANISMS.items():
        yield Check(section="limits", name=name, answer="ok", text=by_rlimit if reason else by_cgroup)


def _grade(reason: str) -> Iterator[Check]:
    """The grade; `reason`: why it is not the better one."""
    if reason:
        yield Check(
            section="limits",
            name="grade rlimit",
            answer="weaker",
            text="limits for each process, and a supervisor for their sum: for a moment a run can hold up to twice",
            what_to_do=f"for limits that the kernel keeps (grade cgroup): {reason}",
        )
        return
    tree = detect()
    yield Check(
        section="limits",
        name="grade cgroup",
        answer="ok",
        text=f"the kernel limits memory and processes of every run (cgroup {tree.version})",
    )
    if tree.cpu_shared:
        yield Check(section="limits", name="processor", answer="ok", text="sandboxes yield to the platform under load")
    else:
        yield Check(
            section="limits",
            name="processor",
            answer="weaker",
            text="no cpu controller: under load functions slow the platform down",
            what_to_do="delegate the cpu controller too (a unit file: Delegate=cpu memory pids)",
        )


def _network() -> Iterator[Check]:
    yield Check(section="network", name="none", answer="ok", text="offered: a network of its own without a way out")
    reason = networks.unavailable()
    if reason:
        yield Check(section="network", name="internet", answer="absent", text="not offered", what_to_do=reason)
    else:
        text = "offered: public addresses only; the host, private networks and metadata services are unreachable"
        yield Check(section="network", name="internet", answer="ok", text=text)


def _interpreters() -> Iterator[Check]:
    found = discover(settings.environment())
    if not found:
        yield Check(
            section="interpreters",
            name="CPython",
            answer="missing",
            text="none found that this user can start",
            what_to_do="install CPython 3.8 or newer (Debian, Ubuntu: apt-get install python3)",
        )
    for number, (version, interpreter) in enumerate(found.items()):
        text = f"{interpreter.full_version} at {interpreter.executable}{', the default' if number == 0 else ''}"
        yield Check(section="interpreters", name=version, answer="ok", text=text)


def _docker() -> Iterator[Check]:
    said = settings.read(())
    engine = Engine(said.docker_host, settings.environment())
    try:
        told = engine.examine()
    except EngineError as error:
        text = f"the runtime docker is not offered: no engine answers at {engine.url}"
        yield Check(section="docker", name="engine", answer="absent", text=text, what_to_do=str(error))
        return
    text = f"Docker {told.get('ServerVersion')} answers at {engine.url}: the runtime docker is offered"
    yield Check(section="docker", name="engine", answer="ok", text=text)
    yield from _containers(told)


def _containers(told: Mapping[str, Any]) -> Iterator[Check]:
    """What the engine runs containers with, and what is known of its versions."""
    default = told.get("DefaultRuntime", "runc")
    runtimes = sorted(name for name in told.get("Runtimes", {}) if not name.startswith("io.containerd"))
    listed = ", ".join(f"{name} (default)" if name == default else name for name in runtimes)
    yield Check(section="docker", name="OCI runtimes", answer="ok", text=f"{listed}; config key oci_runtime")
    for part in told.get("Components", ()):
        program, version = str(part.get("Name")), str(part.get("Version"))
        for hole in known.holes(program, version):
            yield Check(
                section="docker",
                name=hole.name,
                answer="weaker",
                text=f"{program} {version}, by its number, has a known hole: {hole.lets}",
                what_to_do=f"update {program} to {', '.join('.'.join(map(str, fixed)) for fixed in hole.fixed)} or "
                "newer, or see in your distribution's changelog that it is repaired",
            )
    for what_to_do in features.closed():
        text = "containers run as an ordinary user, who may make no user namespace here: functions do not start"
        yield Check(section="docker", name="user namespaces", answer="absent", text=text, what_to_do=what_to_do)


def _host() -> Iterator[Check]:
    release = platform.release()
    yield Check(section="host", name="kernel", answer="ok", text=f"Linux {release} on {platform.machine()}")
    yield _core_pattern(_text("/proc/sys/kernel/core_pattern"))
    yield _swap(_text("/proc/swaps"))
    for name in ("protected_hardlinks", "protected_symlinks"):
        yield _protected(name, _text(f"/proc/sys/fs/{name}"))


def _core_pattern(pattern: str) -> Check:
    if not pattern.startswith("|"):
        return Check(section="host", name="core_pattern", answer="ok", text="a crash starts no program on the host")
    return Check(
        section="host",
        name="core_pattern",
        answer="weaker",
        text=f"a process that crashes is handed to {pattern[1:].split()[0] if pattern[1:].split() else 'a program'}, "
        "a program of the host, with its memory",
        what_to_do="sysctl -w kernel.core_pattern=core (and in /etc/sysctl.d/ to keep it)",
    )


def _swap(table: str) -> Check:
    if len(table.splitlines()) < 2:
        return Check(section="host", name="swap", answer="ok", text="none: no function's memory is written to a disk")
    return Check(
        section="host",
        name="swap",
        answer="weaker",
        text="functions' memory, with their contexts, may be written to a disk and slow the host down",
        what_to_do="swapoff -a, or encrypt the swap space",
    )


def _protected(name: str, value: str) -> Check:
    if value == "0":
        return Check(
            section="host",
            name=name,
            answer="weaker",
            text="other users of this host can place links in shared directories as traps",
            what_to_do=f"sysctl -w fs.{name}=1 (and in /etc/sysctl.d/ to keep it)",
        )
    return Check(section="host", name=name, answer="ok", text="links in shared directories are no traps")


def _text(path: str) -> str:
    """What a /proc file says; nothing where it is not shown, as in a container."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


# ---------------------------------------------------------------- output


def _well(checks: Sequence[Check]) -> bool:
    return all(check.answer != "missing" for check in checks)


def _object(checks: Sequence[Check]) -> dict[str, object]:
    return {
        "ok": _well(checks),
        "limits": limits.grade(),
        "user": "root" if os.geteuid() == 0 else "ordinary",
        "checks": [asdict(check) for check in checks],
    }


def _print(checks: Sequence[Check], out: TextIO) -> None:
    width = max(len(check.name) for check in checks)
    section = None
    for check in checks:
        if check.section != section:
            section = check.section
            out.write(f"{section}\n")
        _print_check(check, width, out)
    out.write(f"\n{_verdict(checks)}\n")


def _print_check(check: Check, width: int, out: TextIO) -> None:
    margin = " " * (2 + 9 + width + 2)
    lines = wrap(check.text, max(WIDTH - len(margin), 40))
    if check.what_to_do:
        lines += wrap(f"-> {check.what_to_do}", max(WIDTH - len(margin), 40), subsequent_indent="   ")
    out.write(f"  {check.answer:<9}{check.name:<{width}}  {lines[0]}\n")
    for line in lines[1:]:
        out.write(f"{margin}{line}\n")


def _verdict(checks: Sequence[Check]) -> str:
    missing = [f"{check.section} {check.name}" for check in checks if check.answer == "missing"]
    if missing:
        return f"This machine cannot keep the platform's promises: {', '.join(missing)}."
    weaker = sum(check.answer == "weaker" for check in checks)
    rest = f" What is marked weaker could be better ({weaker})." if weaker else ""
    return f"This machine keeps all default promises.{rest}"
