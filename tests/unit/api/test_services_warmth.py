"""`min_warm`: which spots are told to keep which versions ready."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from faaspot_api.services.warmth import MOST, chosen
from faaspot_api.store import deployments
from faaspot_runner.contract.spots import Warm
from tests.control_plane import ADMIN, ANN, BOB, Plane, a_spot, control_plane


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path) as plane:
        yield plane


def told(plane: Plane) -> dict[str, list[str]]:
    """By spot, the deployments that stand ready there, with their versions."""
    plane.services.reconciler.pass_(0.0)
    return {ip: [f"{spec.deployment} {spec.version}" for spec in warm.specs] for ip, warm in plane.queue.warm.items()}


def test_only_what_asks_for_it_stands_ready_and_only_on_so_many_spots(plane: Plane) -> None:
    plane.create("asks", min_warm=1)
    plane.create("asks-for-two", min_warm=2)
    plane.create("asks-for-all", min_warm=1000)
    plane.create("does-not", min_warm=0, description='"min_warm": 5')
    plane.create("says-nothing")
    for number in range(2, 6):
        plane.queue.heartbeat(a_spot(f"127.0.0.{number}"))
    found = [name for names in told(plane).values() for name in names]
    assert {name: found.count(name) for name in set(found)} == {"asks 1": 1, "asks-for-two 1": 2, "asks-for-all 1": 5}


def test_a_spot_that_cannot_hold_it_or_takes_no_work_is_not_told(plane: Plane) -> None:
    plane.create("asks", min_warm=9)
    plane.queue.heartbeat(a_spot("127.0.0.2", runtimes=("docker",)))
    plane.queue.heartbeat(a_spot("127.0.0.3", status="draining"))
    plane.queue.heartbeat(a_spot("127.0.0.4"), age=11)
    assert told(plane) == {"127.0.0.1": ["asks 1"]}


def test_a_spot_without_a_worker_for_runs_comes_last(plane: Plane) -> None:
    for number in range(2, 6):
        plane.queue.heartbeat(a_spot(f"127.0.0.{number}", workers={"sync": 1} if number == 4 else {"builds": 1}))
    for number in range(6):
        plane.create(f"asks-{number}", min_warm=1)
    assert list(told(plane)) == ["127.0.0.4"]


def test_it_moves_only_where_a_spot_goes(plane: Plane) -> None:
    for number in range(2, 5):
        plane.queue.heartbeat(a_spot(f"127.0.0.{number}"))
    for number in range(12):
        plane.create(f"asks-{number:02}", min_warm=1)
    before = {name: ip for ip, names in told(plane).items() for name in names}
    plane.queue.heartbeat(a_spot("127.0.0.3", status="draining"))
    after = {name: ip for ip, names in told(plane).items() for name in names}
    assert set(before) == set(after)
    assert "127.0.0.3" not in after.values()
    assert {name for name in before if before[name] != after[name]} == {n for n in before if before[n] == "127.0.0.3"}


def test_no_owner_with_many_of_them_comes_before_all_others(plane: Plane) -> None:
    """A spot keeps only so many, the first that it is told: names and numbers must not be the way to be among them."""
    for number in range(4):
        plane.create(f"a-{number}", who=ANN, min_warm=1)
    for number in range(2):
        plane.create(f"b-{number}", who=BOB, min_warm=1)
    assert told(plane) == {"127.0.0.1": ["a-0 1", "b-0 1", "a-1 1", "b-1 1", "a-2 1", "a-3 1"]}


def test_a_spot_is_told_of_no_more_than_it_can_read_every_second(plane: Plane) -> None:
    plane.create("asks", min_warm=1)
    with plane.store.read() as transaction:
        asking = deployments.kept_warm(transaction)
    warm = chosen(asking * (MOST + 1), [a_spot()])
    assert len(warm["127.0.0.1"].specs) == MOST


def test_the_version_that_runs_stands_ready_and_none_of_a_deployment_that_is_gone(plane: Plane) -> None:
    plane.create("asks", min_warm=1)
    plane.update("asks", requirements="requests")
    assert told(plane) == {"127.0.0.1": ["asks 1"]}, "the new one is not built yet"
    plane.build()
    assert told(plane) == {"127.0.0.1": ["asks 2"]}
    plane.update("asks", min_warm=0)
    assert told(plane) == {}
    plane.create("another", min_warm=1)
    assert told(plane) == {"127.0.0.1": ["another 1"]}
    plane.services.deployments.delete(ADMIN, "another")
    assert told(plane) == {}


def test_what_is_told_reads_back_and_what_is_none_is_refused(plane: Plane) -> None:
    plane.create("asks", min_warm=1)
    told(plane)
    (warm,) = plane.queue.warm.values()
    assert Warm.of(warm.text()) == warm
    assert Warm.of(None) == Warm()
    for text in ('{"a": 1}', "[1]", '[{"version_id": "v"}]', "{", "5"):
        with pytest.raises(ValueError, match=r"malformed|Expecting"):
            Warm.of(text)
