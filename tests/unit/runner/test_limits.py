"""The resource limits of a run, set in a real child and tried."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable

import pytest

from faaspot_runner.contract import Limits
from faaspot_runner.sandbox import limits as limits_module
from faaspot_runner.sandbox.cgroup_tree import CgroupsUnavailable
from faaspot_runner.sandbox.limits import Grade, grade, rlimits, why_no_cgroups

LIMITS = Limits(memory=128, pids=10, tmp=4, timeout=2.5)


def table(grade: Grade, runs: int = 1) -> dict[int, tuple[int, int]]:
    return {kind: (soft, hard) for kind, soft, hard in rlimits(LIMITS, grade, runs=runs)}


def errno_under(grade: Grade, work: Callable[[], None]) -> int:
    """What errno `work` meets in a child under the limits; 0 for none."""
    pid = os.fork()
    if not pid:
        code = 255
        try:
            for kind, soft, hard in rlimits(LIMITS, grade):
                resource.setrlimit(kind, (soft, hard))
            work()
            code = 0
        except OSError as error:
            code = error.errno or 254
        except MemoryError:
            code = errno.ENOMEM
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_soft_and_hard_are_equal_so_that_nothing_can_be_raised() -> None:
    for which in ("cgroup", "rlimit"):
        assert all(soft == hard for soft, hard in table(which).values())


def test_memory_is_limited_for_each_process_only_where_no_cgroup_does_it() -> None:
    assert table("rlimit")[resource.RLIMIT_DATA] == (128 * 2**20, 128 * 2**20)
    assert (resource.RLIMIT_DATA, 168 * 2**20, 168 * 2**20) in rlimits(LIMITS, "rlimit", base_mb=40)
    assert resource.RLIMIT_DATA not in table("cgroup")
    assert resource.RLIMIT_AS not in table("rlimit")


def test_runs_that_share_a_sandbox_share_the_count_of_processes() -> None:
    assert table("rlimit", runs=3)[resource.RLIMIT_NPROC] == (30, 30)


def test_no_limit_is_above_the_one_that_we_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (5, 7))
    assert all(hard <= 7 for _, hard in table("rlimit").values())


def test_every_processor_may_be_busy_until_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert table("cgroup")[resource.RLIMIT_CPU] == (3 * 4 + 5, 3 * 4 + 5)


@pytest.mark.parametrize("which", ["cgroup", "rlimit"])
def test_a_huge_sparse_file_is_too_large(which: Grade) -> None:
    def work() -> None:
        descriptor = os.memfd_create("sparse")
        os.ftruncate(descriptor, 2**40)

    assert errno_under(which, work) == errno.EFBIG


@pytest.mark.parametrize("which", ["cgroup", "rlimit"])
def test_descriptors_run_out(which: Grade) -> None:
    assert errno_under(which, lambda: [os.dup(0) for _ in range(2000)].clear()) == errno.EMFILE


def test_a_large_allocation_is_a_memory_error_in_the_rlimit_grade() -> None:
    assert errno_under("rlimit", lambda: bytearray(200 * 2**20).clear()) == errno.ENOMEM


def test_raising_a_limit_again_is_refused_to_an_ordinary_user() -> None:
    def work() -> None:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        except ValueError as error:  # CPython's word for EPERM here
            raise PermissionError(errno.EPERM, str(error)) from error

    assert errno_under("cgroup", work) == errno.EPERM


def test_the_grade_says_why_it_is_the_weaker_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (grade() == "cgroup") == (why_no_cgroups() == "")

    def none() -> None:
        raise CgroupsUnavailable("no cgroup hierarchy is mounted")

    monkeypatch.setattr(limits_module, "detect", none)
    assert grade() == "rlimit"
    assert why_no_cgroups() == "no cgroup hierarchy is mounted"
