"""Dead letters: what failed is run again, once, and what cannot be says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from faaspot_api.domain.model import Filter
from faaspot_api.errors import Conflict, Invalid, NotFound
from tests.control_plane import ADMIN, ANN, BOB, EVE, Plane, control_plane, failed


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path) as plane:
        plane.create()
        yield plane


def fail(plane: Plane, reason: str = "error", **more: object) -> str:
    """A run that ends for `reason`; its id."""
    uuid = plane.run(**more)  # type: ignore[arg-type]
    request = plane.take()
    plane.start(request)
    plane.finish(request, **failed(reason))
    return uuid


def test_one_is_run_again_by_the_version_that_is_current_now(plane: Plane) -> None:
    old = fail(plane, args={"n": 1})
    plane.update(code="def main(args, context):\n    return 2\n")
    new = plane.services.reruns.rerun(ADMIN, old)
    request = plane.take()
    assert (request.execution_id, request.args, request.sandbox.version) == (new, '{"n": 1}', 2)
    plane.start(request)
    plane.finish(request)
    assert (plane.record(new).status, plane.record(old).status) == ("Success", "Failure")


def test_what_has_not_ended_or_is_no_run_is_not_run_again(plane: Plane) -> None:
    with pytest.raises(Conflict, match="has not ended"):
        plane.services.reruns.rerun(ADMIN, plane.run())
    with pytest.raises(Conflict, match="is a build"):
        plane.services.reruns.rerun(ADMIN, plane.create("other"))
    with pytest.raises(NotFound):
        plane.services.reruns.rerun(ADMIN, "nothing")


def test_a_run_of_a_deleted_deployment_cannot_run_again_even_if_the_name_is_taken_anew(plane: Plane) -> None:
    old = fail(plane)
    plane.services.deployments.delete(ADMIN, "hello")
    plane.create()
    with pytest.raises(Conflict, match="was deleted"):
        plane.services.reruns.rerun(ADMIN, old)
    done = plane.services.reruns.rerun_all(ADMIN, Filter(), 10, None)
    assert [(each.of, each.uuid) for each in done.items] == [(old, None)]


def test_a_run_whose_large_args_are_gone_cannot_run_again(plane: Plane) -> None:
    """As after a restore: backups leave them out."""
    taken = plane.services.executions.take_args(ADMIN, "hello", [b"{}"])
    uuid = plane.services.executions.run(ADMIN, "hello", taken).uuid
    request = plane.take()
    plane.start(request)
    plane.finish(request, **failed())
    plane.blobs.delete(taken.digest)
    with pytest.raises(Conflict, match=r"args of .* are not there any more"):
        plane.services.reruns.rerun(ADMIN, uuid)


def test_a_renamed_deployment_still_runs_its_own(plane: Plane) -> None:
    old = fail(plane)
    plane.update(name="renamed")
    assert plane.record(plane.services.reruns.rerun(ADMIN, old)).deployment == "renamed"


def test_all_failures_are_run_again_once_and_nothing_else(plane: Plane) -> None:
    lost = [fail(plane, "timeout") for _ in range(3)]
    others = [fail(plane, "oom"), plane.run()]
    request = plane.take()
    plane.start(request)
    plane.finish(request)
    wanted = Filter(reason="timeout")
    first = plane.services.reruns.rerun_all(ADMIN, wanted, 2, None)
    second = plane.services.reruns.rerun_all(ADMIN, wanted, 2, first.cursor)
    assert [each.of for each in (*first.items, *second.items)] == lost[::-1]
    assert second.cursor is None
    assert {plane.take().execution_id for _ in lost} == {each.uuid for each in (*first.items, *second.items)}
    assert plane.services.reruns.rerun_all(ADMIN, wanted, 10, None).items == ()
    assert [each.of for each in plane.services.reruns.rerun_all(ADMIN, Filter(), 10, None).items] == [others[0]]


def test_the_dead_letters_that_nobody_ran_again_can_be_listed(plane: Plane) -> None:
    done, left = fail(plane), fail(plane)
    plane.services.reruns.rerun(ADMIN, done)
    listed = plane.services.executions.list(ADMIN, Filter(reason="error", rerun=False), 10, None)
    assert [each.uuid for each in listed.items] == [left]
    listed = plane.services.executions.list(ADMIN, Filter(reason="error", rerun=True), 10, None)
    assert [each.uuid for each in listed.items] == [done]


def test_everyone_runs_again_only_what_is_theirs(plane: Plane) -> None:
    plane.create("anns", who=ANN)
    old = fail(plane, name="anns", who=EVE)
    with pytest.raises(NotFound):
        plane.services.reruns.rerun(BOB, old)
    assert plane.services.reruns.rerun_all(BOB, Filter(), 10, None).items == ()
    assert plane.record(plane.services.reruns.rerun(EVE, old)).owner == "eve"
    assert plane.services.reruns.rerun(ANN, old)


@pytest.mark.parametrize(
    ("wanted", "limit", "field"),
    [(Filter(status="Success"), 10, "status"), (Filter(), 0, "limit"), (Filter(deployment="../x"), 1, "deployment")],
)
def test_what_makes_no_sense_is_refused(plane: Plane, wanted: Filter, limit: int, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        plane.services.reruns.rerun_all(ADMIN, wanted, limit, None)
    assert caught.value.errors[0].field == field
