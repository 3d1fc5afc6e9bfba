"""Limits that the kernel enforces on a group, with real groups where this machine lets us make some."""

from __future__ import annotations

import mmap
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faaspot_runner.contract import Limits
from faaspot_runner.sandbox import cgroups as cgroups_module
from faaspot_runner.sandbox.cgroup_tree import CgroupsUnavailable, RunSlot, children, find, wait_empty
from faaspot_runner.sandbox.cgroups import Cgroups, detect

NAME = f"unit-{os.getpid()}"
LIMITS = Limits(memory=32, pids=8)


def _why_not() -> str:
    try:
        detect()
    except CgroupsUnavailable as error:
        return str(error)
    return ""


needs_cgroups = pytest.mark.skipif(bool(_why_not()), reason=f"no cgroups here: {_why_not()}")


@pytest.fixture
def groups() -> Iterator[Cgroups]:
    made = Cgroups.open(NAME)
    assert made is not None
    yield made
    assert made.close() == 0
    assert not list(_left())


def _left() -> Iterator[Path]:
    for mount in detect(NAME).mounts:
        yield from find(mount, f"faaspot-{NAME}")


def in_child(work: Callable[[], None], slot: RunSlot | None = None) -> int:
    """Fork, enter the slot as a zygote's child would, work, and return the pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        for descriptor in slot.files if slot else ():
            os.write(descriptor, b"0")
        work()
        os._exit(0)
    except BaseException:  # noqa: BLE001 (a child of the test must never return into pytest)
        os._exit(99)


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sleeper(slot: RunSlot | None = None) -> int:
    """A child that ignores SIGTERM and is in the slot when this returns."""
    reader, writer = os.pipe()

    def work() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(writer, b".")
        signal.pause()

    pid = in_child(work, slot)
    os.close(writer)
    assert os.read(reader, 1) == b"."
    os.close(reader)
    return pid


def take(megabytes: int) -> None:
    """Touch that much anonymous memory."""
    area = mmap.mmap(-1, megabytes * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, len(area), 4096):
        area[offset] = 1


@needs_cgroups
def test_a_run_beyond_its_memory_is_killed_and_counted(groups: Cgroups) -> None:
    slots = groups.slots("w1")
    slot = slots.acquire(LIMITS, sandbox="a")
    assert status_of(in_child(lambda: take(64), slot)) == -signal.SIGKILL
    assert slot.oom_kills() == 1
    peak = slot.peak_mb()
    assert peak is not None
    assert 30 <= peak <= 32
    slots.release(slot)
    slots.close()


@needs_cgroups
def test_a_run_within_its_memory_lives_and_its_peak_and_time_are_told(groups: Cgroups) -> None:
    slots = groups.slots("w1")
    slot = slots.acquire(LIMITS, sandbox="a")

    def work() -> None:
        take(16)
        sum(range(2_000_000))

    assert status_of(in_child(work, slot)) == 0
    assert slot.oom_kills() == 0
    peak, spent = slot.peak_mb(), slot.cpu_ms()
    assert peak is not None
    assert spent is not None
    assert 16 <= peak < 32
    assert 1 < spent < 5000
    slots.close()


@needs_cgroups
def test_files_in_a_tmpfs_count_as_memory(groups: Cgroups) -> None:
    slots = groups.slots("w1")
    slot = slots.acquire(LIMITS, sandbox="a")
    path = Path(f"/dev/shm/{NAME}")

    def work() -> None:
        with path.open("wb") as file:
            for _ in range(64):
                file.write(b"x" * 2**20)

    try:
        assert status_of(in_child(work, slot)) == -signal.SIGKILL
        assert slot.oom_kills() == 1
    finally:
        path.unlink(missing_ok=True)
    slots.close()


@needs_cgroups
def test_a_fork_bomb_meets_eagain_at_the_limit(groups: Cgroups) -> None:
    slots = groups.slots("w1")
    slot = slots.acquire(LIMITS, sandbox="a")

    def work() -> None:
        for count in range(100):
            try:
                pid = os.fork()
            except BlockingIOError:
                os._exit(count)
            if not pid:
                signal.pause()

    pid = in_child(work, slot)
    assert status_of(pid) == LIMITS.pids - 1
    assert slot.populated()
    slot.kill()
    assert wait_empty(slot.populated)
    slots.close()


@needs_cgroups
def test_a_slot_is_used_again_by_its_sandbox_with_counters_at_zero(groups: Cgroups) -> None:
    slots = groups.slots("w1")
    first = slots.acquire(LIMITS, sandbox="a")
    assert status_of(in_child(lambda: take(64), first)) == -signal.SIGKILL
    slots.release(first)
    again = slots.acquire(Limits(memory=64, pids=9), sandbox="a")
    assert again is first
    assert again.oom_kills() == 0
    peak, spent = again.peak_mb(), again.cpu_ms()
    assert peak is not None
    assert spent is not None
    assert peak < 16
    assert spent < 1
    assert status_of(in_child(lambda: take(40), again)) == 0, "the limit was not raised"
    slots.release(again)
    lower = slots.acquire(Limits(memory=16, pids=9), sandbox="a")
    assert status_of(in_child(lambda: take(40), lower)) == -signal.SIGKILL, "the limit was not lowered"
    slots.close()


@needs_cgroups
def test_a_slot_is_never_used_by_another_sandbox(groups: Cgroups) -> None:
    """A zygote keeps the descriptors that it was handed, and could enter the other's slot with them."""
    slots = groups.slots("w1")
    slot = slots.acquire(LIMITS, sandbox="a")
    slots.release(slot)
    other = slots.acquire(LIMITS, sandbox="b")
    assert other is not slot
    slots.close()


@needs_cgroups
def test_a_slot_that_is_not_empty_is_killed_and_thrown_away(groups: Cgroups) -> None:
    slots = groups.slots("w1")
    slot = slots.acquire(LIMITS, sandbox="a")
    pid = sleeper(slot)
    reaper = threading.Thread(target=os.waitpid, args=(pid, 0))
    reaper.start()
    slots.release(slot)
    reaper.join(5)
    assert not reaper.is_alive()
    assert slots.acquire(LIMITS, sandbox="a") is not slot
    slots.close()


@needs_cgroups
def test_idle_slots_are_bounded_and_go_with_their_sandbox(groups: Cgroups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups_module, "IDLE_SLOTS", 3)
    slots = groups.slots("w1")
    for slot in [slots.acquire(LIMITS, sandbox=f"s{number}") for number in range(5)]:
        slots.release(slot)
    assert _slot_names(groups) == {"r-w1+3", "r-w1+4", "r-w1+5"}
    slots.forget("s4")
    assert _slot_names(groups) == {"r-w1+3", "r-w1+4"}
    slots.close()
    assert _slot_names(groups) == set()


def _slot_names(groups: Cgroups) -> set[str]:
    home = detect(NAME).homes[0]
    return {child.name for child in children(home) if child.name.startswith("r-")}


@needs_cgroups
def test_a_sandbox_group_holds_kills_and_removes(groups: Cgroups) -> None:
    group = groups.sandbox_group("abc-1", memory_mb=64, pids=16)
    assert not group.populated()
    pid = sleeper()
    group.attach(pid)
    assert group.populated()
    assert group.oom_kills() == 0
    group.kill()
    assert status_of(pid) == -signal.SIGKILL
    assert wait_empty(group.populated)
    assert group.remove()
    assert group.remove(), "removing again is harmless"


@needs_cgroups
def test_all_sandboxes_together_weigh_less_than_one_ordinary_process(groups: Cgroups) -> None:
    """R20: an ordinary process weighs 1024 shares in v1, an ordinary group 100 in v2."""
    if not detect(NAME).cpu_shared:
        pytest.skip("no cpu controller here")
    weights = [
        int(file.read_text())
        for home in detect(NAME).homes
        for file in (home / "cpu.shares", home / "cpu.weight")
        if file.exists()
    ]
    assert weights == ([512] if groups.version == "v1" else [25])


@needs_cgroups
def test_a_process_that_is_gone_cannot_be_attached(groups: Cgroups) -> None:
    group = groups.sandbox_group("abc-1", memory_mb=64, pids=16)
    pid = in_child(lambda: None)
    status_of(pid)
    with pytest.raises(ProcessLookupError):
        group.attach(pid)


@needs_cgroups
def test_a_worker_opens_the_same_groups_from_their_description(groups: Cgroups) -> None:
    same = Cgroups.described(groups.describe())
    assert same.describe() == groups.describe()
    slots = same.slots("w2")
    slot = slots.acquire(LIMITS, sandbox="a")
    assert status_of(in_child(lambda: take(64), slot)) == -signal.SIGKILL
    slots.close()


@needs_cgroups
def test_the_sweep_ends_what_a_dead_spot_left_and_nothing_else(groups: Cgroups) -> None:
    other = Cgroups.open(NAME + "x")
    assert other is not None
    bystander = sleeper(other.slots("w1").acquire(LIMITS, sandbox="a"))
    left = sleeper(groups.slots("w1").acquire(LIMITS, sandbox="a"))
    attached = sleeper()
    groups.sandbox_group("abc", memory_mb=64, pids=16).attach(attached)
    reapers = [threading.Thread(target=os.waitpid, args=(pid, 0)) for pid in (left, attached)]
    for reaper in reapers:
        reaper.start()
    fresh = Cgroups.open(NAME)
    assert fresh is not None
    assert fresh.sweep() == 0
    for reaper in reapers:
        reaper.join(5)
        assert not reaper.is_alive()
    assert all(not children(home) for home in detect(NAME).homes)
    assert os.waitpid(bystander, os.WNOHANG) == (0, 0)
    os.kill(bystander, signal.SIGKILL)
    assert status_of(bystander) == -signal.SIGKILL
    assert other.close() == 0


@needs_cgroups
def test_the_sweep_finds_a_home_that_was_made_elsewhere(groups: Cgroups) -> None:
    """A service that is started from another session has another group of its own."""
    elsewhere = detect(NAME).homes[0].parent / f"elsewhere-{os.getpid()}"
    elsewhere.mkdir()
    try:
        (elsewhere / f"faaspot-{NAME}").mkdir()
        (elsewhere / f"faaspot-{NAME}" / "s-old").mkdir()
        assert groups.sweep() == 0
        assert not (elsewhere / f"faaspot-{NAME}").exists()
        assert all(home.exists() for home in detect(NAME).homes)
    finally:
        elsewhere.rmdir()


@needs_cgroups
def test_the_slots_of_a_dead_worker_go_alone(groups: Cgroups) -> None:
    groups.slots("w1").acquire(LIMITS, sandbox="a")
    groups.slots("w10").acquire(LIMITS, sandbox="a")
    assert groups.sweep("w1") == 0
    assert _slot_names(groups) == {"r-w10+1"}


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".", "..", "-rf", "x" * 65, "a\nb"])
def test_a_name_that_is_no_directory_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a name for a cgroup"):
        Cgroups.open(name)
