"""Pure cgroup v2 on a recorded tree, for machines that have v1 (where it is there, `test_cgroups.py` runs it for real).

`Kernel` makes the files of a group with its directory, moves processes, and refuses what the kernel refuses.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from faaspot_runner.contract import Limits
from faaspot_runner.sandbox import cgroup_tree, cgroup_v2, container
from faaspot_runner.sandbox.cgroup_tree import CgroupsUnavailable, Directories, Hierarchy, hierarchies
from faaspot_runner.sandbox.cgroup_v2 import PLATFORM, SlotV2, TreeV2
from faaspot_runner.sandbox.cgroups import Cgroups

LIMITS = Limits(memory=100, pids=20)
CORE = {"cgroup.procs": "", "cgroup.subtree_control": "", "cgroup.events": "populated 0\nfrozen 0\n", "cgroup.kill": ""}
CORE |= {"cpu.stat": "usage_usec 0\nuser_usec 0\nsystem_usec 0\n", "cgroup.type": "domain\n"}
BY_CONTROLLER = {
    "memory": {
        "memory.max": "max\n", "memory.swap.max": "max\n", "memory.oom.group": "0\n", "memory.current": "0\n",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    },
    "pids": {"pids.max": "max\n", "pids.current": "0\n"},
    "cpu": {"cpu.weight": "100\n", "cpu.max": "max 100000\n"},
}  # fmt: skip


class Kernel(Directories):
    """As Linux 6.1 behaves, as far as the tree is concerned."""

    def __init__(self, root: Path, controllers: str = "cpu memory pids") -> None:
        self.root = root
        root.mkdir()
        for name, text in {**CORE, "cgroup.controllers": controllers}.items():
            (root / name).write_text(text)
        (root / "cgroup.type").unlink()

    def make(self, directory: Path) -> None:
        if directory.exists():
            return
        directory.mkdir()
        enabled = (directory.parent / "cgroup.subtree_control").read_text().split()
        files = {**CORE, "cgroup.controllers": " ".join(enabled)}
        for controller in enabled:
            files |= BY_CONTROLLER[controller]
        for name, text in files.items():
            (directory / name).write_text(text)

    def remove(self, directory: Path) -> bool:
        if not directory.exists():
            return True
        if cgroup_tree.pids_in(directory) or cgroup_tree.children(directory):
            return False
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()
        return True

    def write(self, path: Path, value: object) -> None:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        group = path.parent
        if path.name == "cgroup.procs":
            if (group / "cgroup.subtree_control").read_text() and group != self.root:
                raise OSError(errno.EBUSY, "has controllers below it")
            for other in self.root.rglob("cgroup.procs"):
                other.write_text("".join(f"{pid}\n" for pid in other.read_text().split() if pid != str(value)))
            path.write_text(f"{path.read_text()}{value}\n")
        elif path.name == "cgroup.subtree_control":
            if cgroup_tree.pids_in(group) and group != self.root:
                raise OSError(errno.EBUSY, "has processes")
            have = (group / "cgroup.controllers").read_text().split()
            asked = [word.lstrip("+") for word in str(value).split()]
            if not set(asked) <= set(have):
                raise FileNotFoundError(errno.ENOENT, "no such controller")
            path.write_text(" ".join(dict.fromkeys([*path.read_text().split(), *asked])))
        elif path.name == "cgroup.kill":
            for procs in group.rglob("cgroup.procs"):
                procs.write_text("")
        else:
            path.write_text(f"{value}\n")

    def delegated(self, name: str, *pids: int) -> Path:
        """A group as systemd delegates one: with controllers, and our processes in it."""
        self.write(self.root / "cgroup.subtree_control", "+cpu +memory +pids")
        group = self.root / name
        self.make(group)
        for pid in pids:
            self.write(group / "cgroup.procs", pid)
        return group


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel(tmp_path / "cgroup")
    monkeypatch.setattr(cgroup_v2, "write", made.write)
    monkeypatch.setattr(cgroup_tree, "write", made.write)
    return made


def tree(kernel: Kernel, own: Path | None = None, *, root: bool = True, writable: bool = True) -> TreeV2:
    hierarchy = Hierarchy(
        mount=kernel.root, own=own or kernel.root, controllers=frozenset(), unified=True, writable=writable
    )
    made = TreeV2.detect([hierarchy], "faaspot-x", root=root)
    made.directories = kernel
    return made


def test_at_the_root_of_the_machine_nothing_is_moved(kernel: Kernel) -> None:
    kernel.write(kernel.root / "cgroup.procs", 1)
    made = tree(kernel)
    made.prepare()
    assert made.home == kernel.root / "faaspot-x"
    assert cgroup_tree.pids_in(kernel.root) == [1]
    assert (made.home / "cgroup.subtree_control").read_text().split() == ["memory", "pids", "cpu"]
    assert (made.home / "cpu.weight").read_text() == "25\n"
    assert made.cpu_shared


def test_in_a_delegated_group_the_platform_moves_into_a_leaf(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group has processes or hands controllers down, never both."""
    own = kernel.delegated("fas.service", 100, 101)
    monkeypatch.setattr(os, "getxattr", lambda path, name: b"1")
    made = tree(kernel, own, root=False)
    made.prepare()
    assert made.home == own / "faaspot-x"
    assert cgroup_tree.pids_in(own / PLATFORM) == [100, 101]
    assert cgroup_tree.pids_in(own) == []
    again = tree(kernel, own / PLATFORM, root=False)
    assert again.home == made.home, "a worker that is started in the leaf finds the same home"
    again.prepare()


def test_processes_that_stay_are_an_answer_and_not_a_loop(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    own = kernel.delegated("fas.service")
    monkeypatch.setattr(os, "getxattr", lambda path, name: b"1")
    monkeypatch.setattr(cgroup_v2, "pids_in", lambda directory: [7])
    with pytest.raises(CgroupsUnavailable, match="processes stay"):
        tree(kernel, own, root=False).prepare()


def test_a_group_that_is_not_ours_is_refused_to_an_ordinary_user(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = kernel.delegated("session.scope", 100)
    monkeypatch.setattr(os, "geteuid", lambda: 123_456)
    monkeypatch.setattr(os, "getxattr", _no_attribute)
    with pytest.raises(CgroupsUnavailable, match="systemd-run --user --scope -p Delegate=yes"):
        tree(kernel, own, root=False)


def _no_attribute(path: Path, name: str) -> bytes:
    raise OSError(errno.ENODATA, "no such attribute")


def test_root_in_a_session_uses_the_root_of_the_machine(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    own = kernel.delegated("session.scope", 100)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getxattr", _no_attribute)
    assert tree(kernel, own).home == kernel.root / "faaspot-x"


def test_a_containers_own_group_is_its_own(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the machine's root, though the engine shows it: what is made there would outlive the container."""
    own = kernel.delegated("docker-1", 100)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getxattr", _no_attribute)
    inside = container.Container(filtered=True, covered=(), label="", capabilities=())
    monkeypatch.setattr(container, "found", lambda: inside)
    assert tree(kernel, own).home == own / "faaspot-x"


def test_missing_controllers_are_named(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path / "cgroup", controllers="hugetlb pids")
    with pytest.raises(CgroupsUnavailable, match="no memory controller"):
        tree(kernel)


def test_a_read_only_mount_is_named(kernel: Kernel) -> None:
    with pytest.raises(CgroupsUnavailable, match="mounted read-only"):
        tree(kernel, writable=False)


def test_the_controllers_beside_v1_are_no_v2_to_build_on() -> None:
    """For real, on a machine like that: the v2 mount exists, but memory and pids belong to v1."""
    found = hierarchies()
    if not any("memory" in each.controllers for each in found if not each.unified):
        pytest.skip("this machine has no v1 memory controller")
    if not any(each.unified for each in found):
        pytest.skip("this machine has no v2 mount")
    with pytest.raises(CgroupsUnavailable, match=r"controller|delegated|writable"):
        TreeV2.detect(found, "faaspot-x", root=True)


def test_a_machine_without_any_hierarchy_is_told_to_mount_one() -> None:
    with pytest.raises(CgroupsUnavailable, match="mount -t cgroup2"):
        TreeV2.detect([], "faaspot-x", root=True)


def test_a_sandbox_and_a_run_get_their_limits_and_swap_is_no_way_out(kernel: Kernel) -> None:
    made = tree(kernel)
    made.prepare()
    group = made.sandbox("s-a", memory_mb=64, pids=5)
    group.attach(4711)
    assert (group.directory / "memory.max").read_text() == f"{64 * 2**20}\n"
    assert (group.directory / "memory.swap.max").read_text() == "0\n"
    assert (group.directory / "pids.max").read_text() == "5\n"
    assert cgroup_tree.pids_in(group.directory) == [4711]
    assert group.oom_kills() == 0
    assert group.remove()
    slots = Cgroups(made).slots("w1")
    slot = slots.acquire(LIMITS, sandbox="a")
    run = made.home / "r-w1+1"
    assert (run / "memory.max").read_text() == f"{100 * 2**20}\n"
    assert (run / "memory.oom.group").read_text() == "1\n"
    assert len(slot.files) == 1
    assert os.readlink(f"/proc/self/fd/{slot.files[0]}") == str(run / "cgroup.procs")
    slots.close()
    assert not run.exists()


def test_counters_begin_at_zero_for_each_run_of_a_slot(kernel: Kernel) -> None:
    made = tree(kernel)
    made.prepare()
    slots = Cgroups(made).slots("w1")
    slot = slots.acquire(LIMITS, sandbox="a")
    run = made.home / "r-w1+1"
    (run / "memory.events").write_text("oom 1\noom_kill 2\n")
    (run / "cpu.stat").write_text("usage_usec 5000\n")
    assert (slot.oom_kills(), slot.cpu_ms(), slot.peak_mb()) == (2, 5.0, None)
    slots.release(slot)
    again = slots.acquire(LIMITS, sandbox="a")
    assert again is slot
    assert (again.oom_kills(), again.cpu_ms()) == (0, 0.0)
    slots.close()


@pytest.mark.parametrize(("code", "reused"), [(0, True), (errno.EINVAL, False), (errno.EBADF, False)])
def test_a_slot_whose_peak_cannot_be_reset_is_not_used_again(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, code: int, reused: bool
) -> None:
    """memory.peak came with Linux 5.19, its reset with 6.12."""
    monkeypatch.setitem(BY_CONTROLLER, "memory", {**BY_CONTROLLER["memory"], "memory.peak": "1048576\n"})
    monkeypatch.setattr(os, "pwrite", lambda *_: _fail(code))
    made = tree(kernel)
    made.prepare()
    slots = Cgroups(made).slots("w1")
    slot = slots.acquire(LIMITS, sandbox="a")
    assert isinstance(slot, SlotV2)
    assert slot.peak_mb() == 1.0
    slots.release(slot)
    assert (slots.acquire(LIMITS, sandbox="a") is slot) == reused
    slots.close()


def _fail(code: int) -> int:
    if code:
        raise OSError(code, os.strerror(code))
    return 6


def test_a_sweep_leaves_an_empty_home_and_its_description_opens_the_same(kernel: Kernel) -> None:
    made = tree(kernel)
    made.prepare()
    made.sandbox("s-old", memory_mb=64, pids=5).attach(4711)
    groups = Cgroups(made)
    assert groups.sweep() == 0
    assert cgroup_tree.children(made.home) == []
    same = Cgroups.described(groups.describe())
    assert same.version == "v2"
    assert same.describe() == groups.describe()
    assert groups.close() == 0
    assert not made.home.exists()
