"""What holds for every test: it has its turn, and in CI, which is root, nothing is skipped."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from tests import machine


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Set-up, call and teardown in one turn; a test marked `alone` looks at the whole machine."""
    with machine.turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What skips on a laptop for want of a server, a kernel feature or root is a failure in CI, which has them all."""
    report = yield
    if report.skipped and os.environ.get("CI") and os.geteuid() == 0:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report
