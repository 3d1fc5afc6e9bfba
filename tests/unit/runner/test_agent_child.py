"""A run's process looks at what it has kept before anything of the user's runs in it."""

from __future__ import annotations

import pytest

from faaspot_runner.agent import child

STATUS = """\
Name:\tpython3
CapInh:\t0000000000000000
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t0000000000000000
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t3
"""
KEPT = ["CapPrm", "CapEff", "CapBnd", "CapAmb"]


def test_a_process_that_has_given_up_everything_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_read", lambda _path: STATUS.encode())
    child._check()


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        *((f"{name}:\t0000000000000000", f"{name}:\t0000000000200000") for name in KEPT),
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0"), ("Seccomp:\t2", "Seccomp:\t0"), ("Seccomp:\t2", "Seccomp:\t1"),
        ("Seccomp:\t2\n", ""),
    ],
)  # fmt: skip
def test_one_that_kept_any_of_it_does_not(monkeypatch: pytest.MonkeyPatch, line: str, instead: str) -> None:
    assert line in STATUS
    monkeypatch.setattr(child, "_read", lambda _path: STATUS.replace(line, instead).encode())
    with pytest.raises(OSError, match="kept privileges"):
        child._check()


def test_this_process_has_kept_some() -> None:
    with pytest.raises(OSError, match="kept privileges"):
        child._check()
