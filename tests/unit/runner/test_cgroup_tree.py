"""Where the hierarchies are, from recorded /proc files of machines and containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from faaspot_runner.sandbox.cgroup_tree import Hierarchy, counter, find, hierarchies
from faaspot_runner.sandbox.cgroup_v1 import TreeV1


def seen(tmp_path: Path, cgroup: str, mountinfo: str) -> list[Hierarchy]:
    """The hierarchies of a process with these files; `MNT` stands for a directory that exists."""
    (tmp_path / "cgroup").write_text(cgroup)
    (tmp_path / "mountinfo").write_text(mountinfo.replace("MNT", str(tmp_path)))
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    return hierarchies(tmp_path)


def test_pure_v2_under_systemd(tmp_path: Path) -> None:
    found = seen(
        tmp_path,
        "0::/system.slice/fas.service\n",
        "25 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 25 0:26 / MNT rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
    )
    assert found == [
        Hierarchy(
            mount=tmp_path,
            own=tmp_path / "system.slice/fas.service",
            controllers=frozenset({"cpu", "memory", "pids"}),
            unified=True,
            writable=True,
        )
    ]


def test_v1_with_two_controllers_in_one_mount_and_a_named_hierarchy(tmp_path: Path) -> None:
    found = seen(
        tmp_path,
        "5:cpu,cpuacct:/a\n4:memory:/a/b\n2:pids:/\n1:name=systemd:/x\n0::/\n",
        "31 25 0:27 / /cg/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "32 25 0:28 / /cg/memory rw - cgroup cgroup rw,memory\n"
        "33 25 0:29 / /cg/pids ro - cgroup cgroup rw,pids\n"
        "34 25 0:30 / /cg/systemd rw - cgroup cgroup rw,xattr,name=systemd\n",
    )
    assert [(str(each.own), each.writable, set(each.controllers)) for each in found] == [
        ("/cg/cpu,cpuacct/a", True, {"cpu", "cpuacct"}),
        ("/cg/memory/a/b", True, {"memory"}),
        ("/cg/pids", False, {"pids"}),
    ]


@pytest.mark.parametrize(
    ("root", "path", "own"),
    [
        ("/docker/abc", "/docker/abc", ""),
        ("/docker/abc", "/docker/abc/sub", "sub"),
        ("/docker/abc", "/elsewhere", ""),
        ("/", "/../..", ""),
        ("/", "/", ""),
    ],
)
def test_a_container_sees_a_part_of_the_hierarchy(tmp_path: Path, root: str, path: str, own: str) -> None:
    found = seen(tmp_path, f"4:memory:{path}\n", f"32 25 0:28 {root} /cg/memory rw - cgroup cgroup rw,memory\n")
    assert found[0].own == Path("/cg/memory") / own


def test_a_space_in_a_mount_point_is_understood(tmp_path: Path) -> None:
    found = seen(tmp_path, "4:memory:/\n", "32 25 0:28 / /my\\040cg rw - cgroup cgroup rw,memory\n")
    assert found[0].mount == Path("/my cg")


def test_cpu_and_cpuacct_in_one_hierarchy_are_one_home(tmp_path: Path) -> None:
    for name in ("memory", "pids", "cpu"):
        (tmp_path / name).mkdir()
    found = [
        Hierarchy(
            mount=tmp_path / name, own=tmp_path / name, controllers=frozenset(names), unified=False, writable=True
        )
        for name, names in (("memory", {"memory"}), ("pids", {"pids"}), ("cpu", {"cpu", "cpuacct"}))
    ]
    made = TreeV1.detect(found, "faaspot-x")
    assert made.homes == [tmp_path / name / "faaspot-x" for name in ("memory", "pids", "cpu")]
    assert TreeV1.described(made.describe()).describe() == made.describe()


def test_counters_are_found_by_their_whole_name() -> None:
    assert counter("oom 1\noom_kill 3\n", "oom_kill") == 3
    assert counter("oom 1\n", "oom_kill") == 0


def test_finding_a_group_does_not_look_inside_it(tmp_path: Path) -> None:
    for place in ("a/faaspot-x/faaspot-x", "faaspot-x", "b/c"):
        (tmp_path / place).mkdir(parents=True)
    assert set(find(tmp_path, "faaspot-x")) == {tmp_path / "faaspot-x", tmp_path / "a/faaspot-x"}
