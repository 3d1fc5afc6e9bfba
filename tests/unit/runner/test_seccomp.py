"""The programs that filter system calls: their words, their size, and what each grade adds."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from faaspot_runner.errors import FeatureMissing
from faaspot_runner.sandbox import seccomp


def test_no_name_is_in_two_lists() -> None:
    lists = [seccomp.ALLOWED, seccomp.MEMORY_IN_A_CGROUP, seccomp.REFUSED]
    names = [name for each in lists for name in each]
    assert len(names) == len(set(names))


def test_what_is_judged_by_its_arguments_is_in_no_list() -> None:
    names = {*seccomp.ALLOWED, *seccomp.REFUSED}
    judged = {
        "clone",
        "clone3",
        "unshare",
        "setns",
        "socket",
        "socketpair",
        "ioctl",
        "getsockopt",
        "setsockopt",
    }
    assert not names & judged


def test_programs_are_whole_instructions_and_small_enough_for_the_kernel() -> None:
    for program in (
        seccomp.zygote_filter(counted=True),
        seccomp.zygote_filter(counted=False),
        seccomp.run_filter(),
        seccomp.watched_filter(),
    ):
        assert len(program) % 8 == 0
        assert 10 < len(program) // 8 < 4096


def test_uncounted_memory_is_refused_where_no_cgroup_counts_it() -> None:
    assert seccomp.zygote_filter(counted=True) != seccomp.zygote_filter(counted=False)


def test_without_libseccomp_the_feature_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **more: Any) -> Any:
        if name == "pyseccomp":
            raise RuntimeError("Unable to find libseccomp")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(FeatureMissing, match="apt-get install libseccomp2"):
        seccomp._library()
