"""What monitoring reads of the control plane."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from faaspot_api.domain.model import Principal
from faaspot_api.errors import Forbidden, NotFound
from faaspot_runner.contract import Timings
from tests.control_plane import ADMIN, ANN, EVE, Plane, a_spot, control_plane, failed
from tests.platforms import ROOT
from tests.unit.api.test_metrics import Figures

MONITOR = Principal(name="watch", role="monitor")


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path) as plane:
        yield plane


def figures(plane: Plane) -> Figures:
    return Figures(plane.services.figures.text(MONITOR).decode())


def test_runs_are_counted_from_accepted_to_their_end(plane: Plane) -> None:
    plane.create()
    uuids = [plane.run() for _ in range(3)]
    for uuid, more in zip(uuids, ({"timings": Timings(run_ms=3.0, cold=True)}, failed("oom")), strict=False):
        request = plane.take()
        assert request.execution_id == uuid
        plane.start(request)
        plane.finish(request, **more)
    found = figures(plane)
    assert found("faaspot_accepted_total", kind="run", deployment="hello") == 3
    assert found("faaspot_ended_total", kind="run", deployment="hello", status="Success", reason="") == 1
    assert found("faaspot_ended_total", kind="run", deployment="hello", status="Failure", reason="oom") == 1
    assert found("faaspot_open_executions", kind="run", queue="background", status="Pending") == 1
    assert 0 <= found("faaspot_open_oldest_seconds", kind="run", queue="background", status="Pending") < 60
    assert found("faaspot_queue_wakeups", queue="background") == 1
    assert found("faaspot_starts_total", start="cold") == 1


def test_a_report_that_comes_twice_is_counted_once(plane: Plane) -> None:
    plane.create()
    plane.run()
    request = plane.take()
    plane.start(request)
    event = plane.finish(request)
    plane.services.recorder.apply([event, event])
    assert figures(plane)("faaspot_ended_total", kind="run", deployment="hello", status="Success", reason="") == 1


def test_lost_workers_and_lost_wake_ups_are_counted(plane: Plane) -> None:
    plane.create()
    plane.run()
    request = plane.take()
    plane.start(request)
    plane.queue.expire(request)
    plane.passes(0.0, 11.0)
    plane.queue.lose_everything()
    plane.passes(20.0, 24.0)
    found = figures(plane)
    assert found("faaspot_leases_expired_total") == 1
    assert found("faaspot_retried_total", kind="run") == 1
    assert found("faaspot_reconciler_actions_total", action="enqueued_again") == 1
    assert found("faaspot_reconciler_pass_seconds_count") == 4


def test_spots_and_parts_are_told_as_they_are(plane: Plane) -> None:
    plane.queue.heartbeat(a_spot("10.0.0.2", running=7, workers={"sync": 2}))
    plane.queue.heartbeat(a_spot("10.0.0.3"), age=60.0)
    found = figures(plane)
    assert (found("faaspot_spots", status="online"), found("faaspot_spots", status="offline")) == (2, 1)
    assert found("faaspot_spot_running", spot="10.0.0.2") == 7
    assert found("faaspot_spot_workers", spot="10.0.0.2", queue="sync") == 2
    plane.queue.away = "gone"
    found = figures(plane)
    assert found("faaspot_ready", part="queue") == 0
    assert found("faaspot_ready", part="database") == 1
    assert not found.labels("faaspot_spots", "status") | found.labels("faaspot_queue_wakeups", "queue")


def test_only_admin_and_monitor_read_them(plane: Plane) -> None:
    for who in (ANN, EVE):
        with pytest.raises(Forbidden):
            plane.services.figures.text(who)
    assert plane.services.figures.text(ADMIN)
    with pytest.raises(Forbidden):
        plane.services.executions.run(MONITOR, "hello", "{}")
    with pytest.raises(Forbidden):
        plane.services.deployments.list(MONITOR)
    with pytest.raises(Forbidden):
        plane.services.spots.list(MONITOR)


def test_every_metric_is_documented(plane: Plane) -> None:
    documented = set(re.findall(r"`(faaspot_\w+)`", (ROOT / "docs" / "operations.md").read_text()))
    text = plane.services.figures.text(ADMIN).decode()
    assert {name.removesuffix("_total") for name in documented} == {
        line.split()[2].removesuffix("_total") for line in text.splitlines() if line.startswith("# TYPE")
    }


def test_they_can_be_off_or_open(tmp_path: Path) -> None:
    with control_plane(tmp_path, metrics_off=True) as plane, pytest.raises(NotFound):
        plane.services.figures.text(ADMIN)
    with control_plane(tmp_path / "second", f"sqlite:///{tmp_path}/second.db", metrics_open=True) as plane:
        assert plane.services.figures.is_open
        assert plane.services.figures.text(None)
