"""Idempotency keys and maximum ages: what a caller may say of a run beside its args."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faaspot_api.domain.model import Principal, RunOptions
from faaspot_api.errors import Invalid, Unprocessable
from faaspot_api.store import keys
from faaspot_api.store.moments import SECOND, now
from faaspot_runner.contract import QUEUE_SYNC
from tests.control_plane import ADMIN, ANN, Plane, control_plane, ended, started
from tests.platforms import eventually


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path) as plane:
        plane.create()
        yield plane


def run(plane: Plane, args: Any = None, who: Principal = ADMIN, **options: Any) -> str:
    return plane.services.executions.run(who, "hello", json.dumps(args or {}), RunOptions(**options)).uuid


# ---------------------------------------------------------------- keys


def test_a_key_stands_for_the_execution_that_it_was_first_used_for(plane: Plane) -> None:
    first = run(plane, {"a": 1}, key="k")
    assert run(plane, {"a": 1}, key="k") == first
    plane.take()
    assert plane.queue.take("background") is None, "one wake-up, one run"
    assert run(plane, {"a": 1}, key="other") != first


def test_keys_of_different_tokens_do_not_meet(plane: Plane) -> None:
    plane.create("anns", who=ANN)
    mine = plane.services.executions.run(ADMIN, "anns", "{}", RunOptions(key="k")).uuid
    assert plane.services.executions.run(ANN, "anns", "{}", RunOptions(key="k")).uuid != mine


def test_the_answer_stays_the_same_after_the_end_and_with_the_deployment_gone(plane: Plane) -> None:
    first = run(plane, key="k")
    request = plane.take()
    plane.start(request)
    plane.finish(request)
    assert run(plane, key="k") == first
    plane.services.deployments.delete(ADMIN, "hello")
    assert run(plane, key="k") == first


@pytest.mark.parametrize(("args", "options"), [({"a": 2}, {}), ({"a": 1}, {"max_age": 5.0})])
def test_another_request_under_a_known_key_is_refused(plane: Plane, args: Any, options: dict[str, Any]) -> None:
    first = run(plane, {"a": 1}, key="k")
    with pytest.raises(Unprocessable) as caught:
        run(plane, args, key="k", **options)
    assert caught.value.execution_id == first


def test_many_runs_under_one_key_are_accepted_once(plane: Plane) -> None:
    first = plane.services.executions.run_bulk(ADMIN, "hello", ["{}", "{}"], RunOptions(key="k"))
    assert plane.services.executions.run_bulk(ADMIN, "hello", ["{}", "{}"], RunOptions(key="k")) == first
    with pytest.raises(Unprocessable):
        plane.services.executions.run_bulk(ADMIN, "hello", ["{}"], RunOptions(key="k"))
    assert plane.services.executions.run_bulk(ADMIN, "hello", [], RunOptions(key="none")) == []
    assert plane.services.executions.run_bulk(ADMIN, "hello", [], RunOptions(key="none")) == []


def test_who_asks_again_while_it_runs_waits_for_the_same_end(plane: Plane) -> None:
    answers: list[Any] = []

    def ask() -> None:
        answers.append(plane.services.executions.run_wait(ADMIN, "hello", "{}", 10.0, options=RunOptions(key="k")))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    with plane.working(QUEUE_SYNC) as taken:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(15)
    assert {(execution.uuid, execution.output, ended) for execution, ended in answers} == {
        (taken[0].execution_id, "42", True)
    }


def test_a_key_is_forgotten_after_a_day(plane: Plane) -> None:
    first = run(plane, key="k")
    plane.passes(0.0, 61.0)
    assert run(plane, key="k") == first
    with plane.store.write() as transaction:
        keys.forget(transaction, now() + SECOND)
    assert run(plane, key="k") != first


# ---------------------------------------------------------------- ages


def test_a_run_that_waited_past_its_own_age_ends_as_no_spot(plane: Plane) -> None:
    short, long = run(plane, max_age=0.05), run(plane)
    eventually(lambda: plane.passes(0.0) or plane.record(short).ended, 5)
    record = plane.record(short)
    assert (record.status, record.reason) == ("Failure", "no_spot")
    assert plane.record(long).status == "Pending"


def test_a_run_that_a_worker_took_in_time_keeps_its_end_though_the_recorder_was_away_for_longer(plane: Plane) -> None:
    held, done = run(plane, max_age=0.05), run(plane, max_age=0.05)
    taken = [plane.take(), plane.take()]
    for request in taken:
        assert plane.queue.hold(request)
        plane.queue.report(started(request))
    plane.queue.finish(taken[1], ended(taken[1]))
    eventually(lambda: now() > plane.record(held).created.timestamp() * SECOND + 0.1 * SECOND, 5)
    plane.passes(0.0)
    plane.record_events()
    assert (plane.record(held).status, plane.record(done).status) == ("Started", "Success")


def test_the_age_is_the_runs_own_else_the_deployments_else_the_servers(plane: Plane) -> None:
    plane.create("aged", max_age=30.0)

    def age(name: str, **options: Any) -> float:
        uuid = plane.services.executions.run(ADMIN, name, "{}", RunOptions(**options)).uuid
        request = plane.take()
        assert request.execution_id == uuid
        return float(round(request.expires - request.accepted, 3))

    assert age("aged") == 30.0
    assert age("aged", max_age=5.0) == 5.0
    assert age("hello") == 86_400.0
    plane.create("older", max_age=2e6)
    assert age("older") == 86_400.0


def test_an_age_beyond_the_servers_is_refused(plane: Plane) -> None:
    with pytest.raises(Invalid, match="at most 86400 seconds"):
        run(plane, max_age=86_401.0)
