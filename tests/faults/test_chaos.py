"""A short run of the chaos schedule; `make chaos` is the long one."""

from __future__ import annotations

import pytest

from tests.faults.chaos import chaos


@pytest.mark.alone  # it looks for what is left on the machine
@pytest.mark.timeout(300)
def test_whatever_breaks_every_acknowledged_run_has_one_end_and_no_two_attempts_overlap() -> None:
    verdict = chaos(seconds=20, seed=2026)
    assert verdict.problems == [], verdict.text()
    assert verdict.accepted > 20, verdict.text()
    assert sum(verdict.faults.values()) >= 4, verdict.text()
