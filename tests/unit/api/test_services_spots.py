"""Spots and health."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from faaspot_api.domain.model import Principal
from faaspot_api.errors import Forbidden, Invalid, NotFound, Unavailable
from faaspot_runner.contract import SUPERVISOR, SpotRequest
from faaspot_runner.contract.spots import EVERY, Wish
from tests.control_plane import ADMIN, ANN, EVE, Plane, a_spot, control_plane, ended, started


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path) as plane:
        yield plane


def test_spots_are_online_draining_or_offline(plane: Plane) -> None:
    plane.queue.heartbeat(a_spot("127.0.0.2", status="draining"))
    plane.queue.heartbeat(a_spot("127.0.0.3"), age=11)
    assert {spot.ip: spot.status for spot in plane.services.spots.list(ADMIN)} == {
        "127.0.0.1": "online",
        "127.0.0.2": "draining",
        "127.0.0.3": "offline",
    }
    spot = plane.services.spots.get(ADMIN, "127.0.0.1")
    assert (spot.runtimes, spot.pythons["3.11"], spot.created.year) == (("sandbox",), "3.11.7", 1970)
    with pytest.raises(NotFound):
        plane.services.spots.get(ADMIN, "127.0.0.9")


def test_a_token_may_be_limited_to_some_spots(plane: Plane) -> None:
    plane.queue.heartbeat(a_spot("127.0.0.2"))
    limited = Principal(name="ann", role="deployer", spots=("127.0.0.2",))
    assert [spot.ip for spot in plane.services.spots.list(limited)] == ["127.0.0.2"]
    with pytest.raises(NotFound):
        plane.services.spots.get(limited, "127.0.0.1")


def test_adding_one_is_an_execution_that_the_supervisor_ends(plane: Plane) -> None:
    uuid = plane.services.spots.add(ADMIN)
    record = plane.record(uuid)
    assert (record.kind, record.name, record.status, record.deployment) == ("spot", "spots.add", "Pending", None)
    request = plane.take(SUPERVISOR)
    assert isinstance(request, SpotRequest)
    plane.services.recorder.apply([started(request), ended(request, output='"127.0.0.2"')])
    assert (plane.record(uuid).status, plane.record(uuid).output) == ("Success", '"127.0.0.2"')


def test_every_change_asks_the_supervisor(plane: Plane) -> None:
    spots = plane.services.spots
    spots.remove(ADMIN, "127.0.0.1")
    spots.remove(ADMIN, None)
    spots.replace(ADMIN, "127.0.0.1")
    spots.refresh(ADMIN, "all")
    spots.refresh(ADMIN, "127.0.0.1")
    asked = [(request.action, request.ip) for request in (plane.take(SUPERVISOR) for _ in range(5))]
    assert asked == [
        ("remove", "127.0.0.1"),
        ("remove", None),
        ("replace", "127.0.0.1"),
        ("refresh", None),
        ("refresh", "127.0.0.1"),
    ]


def test_what_is_not_there_cannot_be_changed(plane: Plane) -> None:
    spots = plane.services.spots
    for call in (
        lambda: spots.remove(ADMIN, "127.0.0.9"),
        lambda: spots.replace(ADMIN, "127.0.0.9"),
        lambda: spots.refresh(ADMIN, "127.0.0.9"),
    ):
        with pytest.raises(NotFound):
            call()
    plane.queue.lose_everything()
    with pytest.raises(NotFound):
        spots.remove(ADMIN, None)


def test_a_request_that_waits_can_be_cancelled(plane: Plane) -> None:
    uuid = plane.services.spots.add(ADMIN)
    assert plane.services.executions.cancel(ADMIN, uuid).status == "Cancelled"
    assert plane.queue.take(SUPERVISOR) is None


def test_numbers_of_workers_are_checked_kept_and_told_to_the_spots(plane: Plane) -> None:
    update = plane.services.spots.update
    said = update(ADMIN, 2, 10)
    assert (said["min_workers"], said["max_workers"], said["applied"]) == (2, 10, True)
    assert plane.queue.wishes == {EVERY: Wish(least=2, most=10)}
    assert update(ADMIN, None, 5) == {"min_workers": 2, "max_workers": 5, "applied": True}
    for least, most in ((6, 5), (-1, None), (None, 10**9)):
        with pytest.raises(Invalid):
            update(ADMIN, least, most)


@pytest.mark.parametrize("who", [ANN, EVE])
def test_only_an_admin_changes_spots(plane: Plane, who: Principal) -> None:
    spots = plane.services.spots
    for call in (
        lambda: spots.add(who),
        lambda: spots.remove(who, "127.0.0.9"),
        lambda: spots.replace(who, "127.0.0.1"),
        lambda: spots.refresh(who, "all"),
        lambda: spots.update(who, 1, 2),
    ):
        with pytest.raises(Forbidden):
            call()


def test_an_invoker_sees_no_spots(plane: Plane) -> None:
    with pytest.raises(Forbidden):
        plane.services.spots.list(EVE)


def test_with_the_queue_away_the_list_is_a_503(plane: Plane) -> None:
    plane.queue.away = "killed"
    with pytest.raises(Unavailable):
        plane.services.spots.list(ADMIN)


def test_health_names_what_is_missing(plane: Plane) -> None:
    silent = plane.services.health.ready()["recorder"]
    assert silent == "The recorder is silent: no end is being recorded."
    plane.services.health.beat()
    assert plane.services.health.ready() == dict.fromkeys(("database", "queue", "recorder", "spots"), "ok")
    plane.services.health.beat("The disk is full.")
    assert plane.services.health.ready()["recorder"] == "The recorder cannot record: The disk is full."
    plane.services.health.beat()
    plane.queue.heartbeat(a_spot(), age=60)
    assert plane.services.health.ready()["spots"] == "no spot is online"
    plane.queue.away = "killed"
    states = plane.services.health.ready()
    assert (states["database"], "killed" in states["queue"]) == ("ok", True)
