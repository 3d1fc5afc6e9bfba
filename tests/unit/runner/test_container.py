"""Containers as /proc shows them, and which option of an engine gives what it keeps back."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import NoReturn

import pytest

from faaspot_runner.sandbox import cgroups, container
from faaspot_runner.sandbox.cgroup_tree import CgroupsUnavailable
from faaspot_runner.sandbox.container import APPARMOR, SECCOMP, SELINUX, SYSTEM_PATHS, Container
from faaspot_runner.settings import Settings
from faaspot_runner.spot import process

MASKED = """\
600 500 0:50 / / rw,relatime - overlay overlay rw
601 600 0:51 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
602 601 0:51 /sys /proc/sys ro,nosuid,nodev,noexec,relatime - proc proc rw
603 601 0:52 / /proc/keys rw,nosuid - tmpfs tmpfs rw
"""
UNSHARE = "[Errno 1] unshare: Operation not permitted"
MOUNT_PROC = "[Errno 1] mount /proc: Operation not permitted"
LABELLED = "[Errno 13] mount /tmp: Permission denied"


def recorded(
    directory: Path, *, pid: int = 4_026_532_700, mounts: str = MASKED, seccomp: int = 2, caps: int = 0, label: str = ""
) -> Container | None:
    """What is found where /proc/self has these files."""
    proc = directory / "proc"
    (proc / "ns").mkdir(parents=True)
    for kind, number in {**container.INITIAL, "pid": pid}.items():
        os.symlink(f"{kind}:[{number}]", proc / "ns" / kind)
    (proc / "status").write_text(f"Name:\tpython3\nCapEff:\t{caps:016x}\nSeccomp:\t{seccomp}\nSeccomp_filters:\t1\n")
    (proc / "mountinfo").write_text(mounts)
    if label:
        (proc / "attr").mkdir()
        (proc / "attr" / "current").write_text(f"{label}\n")
    mark = directory / ".dockerenv"
    mark.touch()
    return container.found(proc, (str(directory / "missing"), str(mark)))


def test_a_container_of_an_engines_defaults(tmp_path: Path) -> None:
    assert recorded(tmp_path, caps=0xA80425FB, label="docker-default (enforce)") == Container(
        filtered=True,
        covered=("/proc/sys", "/proc/keys"),
        label="docker-default",
        capabilities=("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID", "SETFCAP"),
    )


def test_a_machine_that_booted_an_image_is_none(tmp_path: Path) -> None:
    """Its root still has the mark of the engine that made it."""
    assert recorded(tmp_path, pid=container.INITIAL["pid"]) is None


def test_a_namespace_of_ones_own_without_a_mark_is_none(tmp_path: Path) -> None:
    found = recorded(tmp_path)
    assert found is not None
    assert container.found(tmp_path / "proc", (str(tmp_path / "missing"),)) is None


@pytest.mark.parametrize(
    "label", ["unconfined", "unconfined_u:unconfined_r:unconfined_t:s0", "system_u:system_r:spc_t:s0"]
)
def test_whoever_is_not_confined_has_no_label(tmp_path: Path, label: str) -> None:
    found = recorded(tmp_path, label=label)
    assert found is not None
    assert found.label == ""


@pytest.mark.parametrize(
    ("label", "failures", "options"),
    [
        ("", [], ()),
        ("", ["", ""], ()),
        ("", [UNSHARE], (SECCOMP, SYSTEM_PATHS)),
        ("", [MOUNT_PROC], (SYSTEM_PATHS,)),
        ("docker-default", [UNSHARE], (SECCOMP, SYSTEM_PATHS, APPARMOR)),
        ("docker-default", [LABELLED], (APPARMOR,)),
        ("system_u:system_r:container_t:s0:c1,c2", [LABELLED, MOUNT_PROC], (SYSTEM_PATHS, SELINUX)),
        ("", ["[Errno 28] unshare: No space left on device"], ()),
        ("", ["[Errno 1] Operation not permitted"], ()),
    ],
)
def test_each_failure_leads_to_the_options_that_it_lacks(
    monkeypatch: pytest.MonkeyPatch, label: str, failures: list[str], options: tuple[str, ...]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    inside = Container(filtered=True, covered=("/proc/sys",), label=label, capabilities=())
    assert inside.options(failures) == options


def test_root_without_its_capabilities_is_told_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    held = tuple(name for name in container.OF_ROOT if name != "SETFCAP")
    inside = Container(filtered=True, covered=(), label="", capabilities=held)
    assert inside.advice(["[Errno 1] Operation not permitted"]) == "start the container with --cap-add SETFCAP"


def test_the_advice_says_where_the_profile_comes_from() -> None:
    inside = Container(filtered=True, covered=(), label="", capabilities=container.OF_ROOT)
    assert inside.advice([UNSHARE]) == f"start the container with {SECCOMP} ({container.PROFILE})"
    assert inside.advice([]) == ""


def test_two_containers_with_the_same_paths_name_apart_what_they_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spot sweeps at its start what has its name, on the whole machine."""
    inside = Container(filtered=True, covered=(), label="", capabilities=())
    names = set()
    for host in ("0a1b2c", "3d4e5f", "3d4e5f"):
        monkeypatch.setattr(container, "found", lambda: inside)
        monkeypatch.setattr(platform, "node", lambda host=host: host)
        names.add(process._platform(Settings()))
    monkeypatch.setattr(container, "found", lambda: None)
    names.add(process._platform(Settings()))
    assert len(names) == 3


def test_where_cgroups_cannot_be_used_the_options_that_give_them_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "_detect", _unavailable)
    with pytest.raises(CgroupsUnavailable, match=r"^it is not writable$"):
        cgroups.detect()
    inside = Container(filtered=True, covered=(), label="", capabilities=())
    monkeypatch.setattr(container, "found", lambda: inside)
    with pytest.raises(CgroupsUnavailable, match="a container: start it with --user 0 --cgroupns host"):
        cgroups.detect()


def _unavailable(name: str, proc: Path) -> NoReturn:
    raise CgroupsUnavailable("it is not writable")
