"""Who may wait: most of a process's threads, never all; a part of them for one token."""

from __future__ import annotations

import pytest

from faaspot_api.app import application
from faaspot_api.domain.model import Principal
from faaspot_api.errors import Overloaded
from faaspot_api.http.waiters import RETRY_AFTER, Waiters
from faaspot_api.settings import Settings
from tests.http_api import Api

ANN, BOB, EVE = (Principal(name=name, role="deployer") for name in ("ann", "bob", "eve"))
SYNC = "/v1/sync/deployments/hello/rpc/"
RPC = "/v1/deployments/hello/rpc/"


def test_a_token_gets_its_part_and_all_tokens_theirs() -> None:
    waiters = Waiters(most=3, each=2)
    seats = [waiters.enter(ANN), waiters.enter(ANN)]
    with pytest.raises(Overloaded, match=r"with this token wait already \(2\)") as caught:
        waiters.enter(ANN)
    assert caught.value.retry_after == RETRY_AFTER

    seats.append(waiters.enter(BOB))
    with pytest.raises(Overloaded, match=r"wait already \(3\)"):
        waiters.enter(EVE)

    seats[0].leave()
    seats[0].leave()
    waiters.enter(EVE)
    with pytest.raises(Overloaded):
        waiters.enter(BOB)


def test_who_fails_while_waiting_gives_the_place_back() -> None:
    waiters = Waiters(most=1, each=1)
    with pytest.raises(ZeroDivisionError), waiters.waiting(ANN):
        raise ZeroDivisionError
    waiters.enter(ANN)


@pytest.mark.parametrize(("threads", "most"), [(256, 192), (16, 12), (1, 1)])
def test_a_quarter_of_the_threads_is_left(threads: int, most: int) -> None:
    waiters = Waiters.of(Settings(web_threads=threads, max_waiting_per_token=768))
    for _ in range(most):
        waiters.enter(ANN)
    with pytest.raises(Overloaded):
        waiters.enter(ANN)


def test_a_hundred_of_one_token_may_wait_even_in_one_process() -> None:
    waiters = Waiters.of(Settings())
    for _ in range(100):
        waiters.enter(ANN)


def full() -> Api:
    """An API whose one place is taken."""
    api = Api()
    api.deploy()
    api.waiters.enter(Principal(name="someone", role="admin"))
    return api


@pytest.mark.parametrize(("path", "headers"), [(SYNC, {}), (RPC, {"Prefer": "wait=900"})])
def test_one_too_many_is_a_429_without_a_record(path: str, headers: dict[str, str]) -> None:
    api = full()
    before = len(api.services.state.executions)

    problem = api.refused(429, "POST", path, {}, headers=headers)

    assert problem["error_code"] == "overloaded"
    assert api.call("POST", path, {}, headers=headers).headers["Retry-After"] == str(RETRY_AFTER)
    assert len(api.services.state.executions) == before
    assert len(api.ok("POST", RPC, {})) == 36, "what does not wait is served"


def test_who_follows_a_log_waits_until_the_answer_is_closed() -> None:
    api = Api()
    uuid = api.deploy()
    follow = f"/v1/executions/{uuid}/logs?follow=true"
    answer = api.call("GET", follow, buffered=False)
    assert api.refused(429, "GET", follow)["error_code"] == "overloaded"
    assert api.call("GET", f"/v1/executions/{uuid}/logs").status_code == 200
    answer.close()

    api.refused(404, "GET", "/v1/executions/01900000-0000-7000-8000-000000000000/logs?follow=true")
    assert api.call("HEAD", follow, buffered=True).status_code == 200
    assert api.call("GET", follow, buffered=True).text == "first line\nsecond line\n"


@pytest.mark.parametrize("what", ["output", "args"])
def test_who_reads_a_value_that_may_be_long_holds_a_place_until_the_answer_is_closed(what: str) -> None:
    api = Api()
    api.deploy()
    path = f"/v1/executions/{api.ok('POST', RPC, {})}/{what}"
    answer = api.call("GET", path, buffered=False)
    assert api.refused(429, "GET", path)["error_code"] == "overloaded"
    answer.close()

    api.refused(404, "GET", f"/v1/executions/01900000-0000-7000-8000-000000000000/{what}")
    assert api.call("GET", path, buffered=True).status_code == 200


def test_who_has_waited_for_a_long_output_reads_it_in_the_same_place() -> None:
    api = Api()
    api.deploy()
    large = {"output": None, "output_blob": "b" * 64, "output_size": 100}
    api.services.state.next_end = large
    answer = api.call("POST", SYNC, {}, buffered=False)
    assert answer.status_code == 200
    api.refused(429, "POST", SYNC, {})
    answer.close()
    assert api.call("POST", SYNC, {}, buffered=True).status_code == 200


def test_the_application_has_its_settings_bounds_by_default() -> None:
    assert application(Api().services)  # type: ignore[arg-type]
