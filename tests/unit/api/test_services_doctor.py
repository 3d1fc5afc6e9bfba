"""What `fas doctor --server` is told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from faaspot_api.domain.model import Principal
from faaspot_api.errors import Forbidden
from faaspot_api.services import doctor
from faaspot_api.services.doctor import Check
from tests.control_plane import ADMIN, ANN, Plane, a_spot, control_plane


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path) as plane:
        yield plane


def checks(plane: Plane) -> dict[str, Check]:
    found = plane.services.doctor.examine(Principal(name="watch", role="monitor"))
    assert found.ok == all(check.answer != "missing" for check in found.checks)
    for check in found.checks:
        assert bool(check.what_to_do) == (check.answer != "ok"), check
    return {f"{check.section} {check.name}": check for check in found.checks}


def test_a_platform_that_is_well_has_nothing_to_do(plane: Plane) -> None:
    plane.services.health.beat()
    found = checks(plane)
    assert {name for name, check in found.items() if check.answer == "missing"} == set()
    assert found["parts database"].text.startswith("sqlite, schema r0")
    assert found["spots 127.0.0.1"].text.startswith("online, limits rlimit")
    assert found["work waiting"].text == "0 executions"


def test_what_is_away_is_a_finding(plane: Plane) -> None:
    plane.queue.away = "gone"
    found = checks(plane)
    assert found["parts queue"].answer == found["parts recorder"].answer == "missing"
    assert found["parts database"].answer == "ok"


def test_a_silent_recorder_and_silent_spots_are_findings(plane: Plane) -> None:
    plane.queue.heartbeat(a_spot(), age=100.0)
    found = checks(plane)
    assert found["parts recorder"].answer == found["spots any"].answer == "missing"
    assert found["spots 127.0.0.1"].text == "silent for 100 s"
    plane.queue.heartbeat(a_spot("127.0.0.2", problems=("network internet: no iptables",), stuck=0))
    plane.queue.heartbeat(a_spot("127.0.0.3", stuck=2))
    found = checks(plane)
    assert "spots any" not in found
    assert "no iptables" in found["spots 127.0.0.2"].text
    assert "2 processes do not die" in found["spots 127.0.0.3"].text


def test_runs_that_wait_for_long_are_a_finding(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    plane.create()
    plane.run()
    assert checks(plane)["work waiting"].text == "1 executions"

    at = doctor.now()
    monkeypatch.setattr(doctor, "now", lambda: at + 90_000_000)
    assert checks(plane)["work waiting"].text == "1 executions, the oldest for 90 s"


@pytest.mark.parametrize(("free", "answer"), [(50, "ok"), (9, "weaker"), (1, "missing")])
def test_a_disk_that_fills_up_is_a_finding_in_time(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, free: int, answer: str
) -> None:
    usage = type(shutil.disk_usage("/"))(10 * 2**30, (100 - free) * 2**30 // 10, free * 2**30 // 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert checks(plane)["parts disk"].answer == answer


def test_it_is_for_those_who_watch(plane: Plane) -> None:
    assert plane.services.doctor.examine(ADMIN)
    with pytest.raises(Forbidden):
        plane.services.doctor.examine(ANN)
