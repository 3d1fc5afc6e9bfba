"""Executions: records, pages, waits, logs; the waits by scripted answers, so without a clock."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from faaspot import AsyncFaaspot, Faaspot, _executions
from faaspot.errors import AlreadyEnded, BuildFailed, ConnectionFailed, NotFound, RunError, TooLarge, WaitTimeout
from tests.unit.sdk.played import Played, answer
from tests.unit.sdk.served import Served

ECHO = "def main(args, context):\n    return args\n"
ENDLESS = "def main(args, context):\n    pass  # never ends\n"


def record(status: str, **more: Any) -> Any:
    return answer(body={"uuid": "u-1", "status": status, **more})


@pytest.fixture
def endless(faaspot: Faaspot) -> str:
    faaspot.deployments.create("endless", code=ENDLESS)
    return str(faaspot.deployments.run("endless"))


# ---------------------------------------------------------------- waiting


def test_a_wait_looks_at_once_and_then_with_growing_pauses() -> None:
    played = Played(_executions.until_ended("u-1"), *[record("Pending")] * 3, record("Started"), record("Success"))

    assert played.value.status == "Success"
    assert played.pauses == sorted(played.pauses)
    assert played.pauses[0] == _executions.FIRST_POLL
    assert {request.path for request in played.requests} == {"executions/u-1"}


def test_a_result_that_is_too_long_for_its_record_is_fetched() -> None:
    large = record("Success", output=None, output_size=9_000_000)
    played = Played(_executions.result("u-1"), large, answer(body=["large"]))
    assert played.value == ["large"]
    assert [request.path for request in played.requests] == ["executions/u-1", "executions/u-1/output"]

    several = answer(body=[{"uuid": "u-1", "status": "Success", "output": None, "output_size": 9}])
    assert Played(_executions.results(["u-1"]), several, answer(body="large")).value == ["large"]
    failed = record("Failure", output="it failed", error={"type": "E", "message": "m", "traceback": None})
    with pytest.raises(RunError):
        Played(_executions.result("u-1"), failed)


def test_pauses_do_not_grow_for_ever() -> None:
    played = Played(_executions.until_ended("u-1"), *[record("Pending")] * 40, record("Cancelled"))

    assert max(played.pauses) == _executions.LONGEST_POLL


def test_a_wait_outlives_a_platform_that_is_starting_again() -> None:
    away = [*[ConnectionFailed("refused")] * 4, *[answer(502, content=b"<h1>")] * 4]
    played = Played(_executions.until_ended("u-1"), record("Started"), *away, record("Success"))

    assert played.value.status == "Success"


def test_a_wait_for_what_is_unknown_ends_at_once() -> None:
    with pytest.raises(NotFound):
        Played(_executions.until_ended("u-1"), answer(404, {"message": "unknown", "error_code": "not_found"}))


def test_a_limited_wait_says_that_the_run_goes_on() -> None:
    with pytest.raises(WaitTimeout, match="goes on") as caught:
        Played(_executions.until_ended("u-1", timeout=0), record("Started"))
    assert caught.value.execution_id == "u-1"


def test_the_result_of_a_failure_is_its_error() -> None:
    failed = record("Failure", reason="build_failed", error={"type": "X", "message": "no wheel", "traceback": None})

    with pytest.raises(BuildFailed, match="no wheel"):
        Played(_executions.result("u-1"), failed)
    assert Played(_executions.result("u-1"), record("Success", output=[1])).value == [1]


def test_many_are_waited_for_together_and_the_first_failure_is_raised() -> None:
    first = {"uuid": "a", "status": "Success", "output": 1}
    pending = answer(body=[first, {"uuid": "b", "status": "Started"}])
    done = answer(body=[{"uuid": "b", "status": "Success", "output": 2}])
    failed = answer(body=[first, {"uuid": "b", "status": "Failure", "output": "why"}])

    played = Played(_executions.results(["a", "b"]), pending, done)

    assert played.value == [1, 2]
    assert [json.loads(request.payload) for request in played.requests] == [["a", "b"], ["b"]]
    assert {request.headers["Prefer"] for request in played.requests} == {"wait=20"}
    with pytest.raises(RunError, match="why"):
        Played(_executions.results(["a", "b"]), failed)


def test_records_that_are_too_large_for_one_answer_are_asked_for_in_halves() -> None:
    too_large = answer(413, {"message": "ask for fewer", "error_code": "too_large"})
    one, two, three = ({"uuid": name, "status": "Success", "output": name} for name in "abc")

    played = Played(_executions.results(["a", "b", "c"]), too_large, answer(body=[one]), too_large,
                    answer(body=[two]), answer(body=[three]))  # fmt: skip

    assert played.value == ["a", "b", "c"]
    with pytest.raises(TooLarge):
        Played(_executions.results(["a"]), too_large)


# ---------------------------------------------------------------- over the wire


def test_one_or_several_are_got_by_id_or_by_record(faaspot: Faaspot) -> None:
    faaspot.deployments.create("echo", code=ECHO)
    ids = faaspot.deployments.run_bulk("echo", [{"n": 1}, {"n": 2}])

    first = faaspot.executions.get(ids[0])

    assert (first["status"], first.status, first["output"]) == ("Success", "Success", {"n": 1})
    assert faaspot.executions.get(first) == first
    assert [each.output for each in faaspot.executions.get(ids)] == [{"n": 1}, {"n": 2}]
    assert faaspot.executions.get_bulk(tuple(ids)) == faaspot.executions.get(ids)
    assert [each.uuid for each in faaspot.executions.get([*ids, ids[0]])] == [*ids, ids[0]]
    with pytest.raises(NotFound, match="nothing"):
        faaspot.executions.get_bulk([*ids, "nothing"])


def test_a_list_leaves_out_what_has_ended_unless_asked(faaspot: Faaspot, endless: str) -> None:
    assert [each.uuid for each in faaspot.executions.list()] == [endless]
    assert len(faaspot.executions.list(include_completed=True)) == 2
    assert [each.kind for each in faaspot.executions.list(status="Success")] == ["build"]
    assert faaspot.executions.list(deployment="other") == []
    assert faaspot.executions.list(since=datetime(2100, 1, 1, tzinfo=UTC)) == []
    assert len(faaspot.executions.list(True, since="2000-01-01 00:00:00+00:00")) == 2


def test_pages_are_followed_as_far_as_the_limit(faaspot: Faaspot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_executions, "PAGE", 10)
    faaspot.deployments.create("echo", code=ECHO)
    ids = faaspot.deployments.run_bulk("echo", [{"n": n} for n in range(35)])

    assert [each.uuid for each in faaspot.executions.list(True, limit=25)] == ids[::-1][:25]
    assert [each.uuid for each in faaspot.executions.iterate(deployment="echo")][:35] == ids[::-1]
    assert len(list(faaspot.executions.iterate())) == 36


def test_cancel_gives_the_record_and_what_has_ended_cannot_be(faaspot: Faaspot, endless: str) -> None:
    assert faaspot.executions.cancel(endless)["status"] == "Cancelled"
    assert faaspot.executions.wait(endless).reason == "cancelled"
    with pytest.raises(AlreadyEnded):
        faaspot.executions.cancel(endless)


def test_logs_whole_and_as_they_grow(faaspot: Faaspot, endless: str) -> None:
    assert faaspot.executions.logs(endless).startswith("first line\nsecond line")
    assert "".join(faaspot.executions.follow(endless)) == "first line\nsecond line\n"
    with pytest.raises(NotFound):
        faaspot.executions.logs("00000000-0000-0000-0000-000000000000")
    with pytest.raises(NotFound):
        list(faaspot.executions.follow("00000000-0000-0000-0000-000000000000"))


def test_the_async_client_does_all_of_it(platform: Served) -> None:
    async def talk() -> list[Any]:
        async with AsyncFaaspot(host=platform.url, token=platform.token) as faaspot:
            await faaspot.deployments.create("endless", code=ENDLESS)
            execution = await faaspot.deployments.run("endless")
            looks = faaspot.executions()
            seen: list[Any] = [
                (await looks.get(execution)).status,
                len(await looks.get([execution])),
                len(await looks.get_bulk([execution])),
                len(await looks.list()),
                len([each async for each in looks.iterate()]),
                (await looks.logs(execution)).splitlines()[0],
                "".join([piece async for piece in looks.follow(execution)]).splitlines()[0],
            ]
            with pytest.raises(WaitTimeout):
                await looks.wait(execution, timeout=0)
            await looks.cancel(execution)
            with pytest.raises(RunError):
                await looks.result(execution)
            assert [each.status for each in await looks.wait_bulk([execution])] == ["Cancelled"]
            with pytest.raises(NotFound):
                _ = [piece async for piece in looks.follow("00000000-0000-0000-0000-000000000000")]
            return seen

    assert asyncio.run(talk()) == ["Started", 1, 1, 1, 2, "first line", "first line"]


def test_several_are_waited_for_however_they_ended(faaspot: Faaspot, endless: str) -> None:
    faaspot.deployments.create("half", code="def main(args, context):\n    return 1 / args['n']\n")
    ids = faaspot.deployments.run_bulk("half", [{"n": 2}, {"n": 0}])

    assert [each.status for each in faaspot.executions.wait_bulk(ids)] == ["Success", "Failure"]
    assert faaspot.executions.wait_bulk([]) == []


def test_failures_are_run_again_one_by_one_and_all_that_match(faaspot: Faaspot, platform: Served) -> None:
    faaspot.deployments.create("half", code="def main(args, context):\n    return 1 / args['n']\n")
    good, bad, worse = faaspot.deployments.run_bulk("half", [{"n": 2}, {"n": 0}, {"n": 0}])

    again = faaspot.executions.rerun(good)
    assert again != good
    assert faaspot.executions.get(again).args == {"n": 2}
    done = faaspot.executions.rerun_all("half", reason="error")
    assert {each.of for each in done} >= {bad, worse}
    assert all(each.uuid for each in done)
    assert good in [each.uuid for each in faaspot.executions.list(status="Success", rerun=True)]
    assert again in [each.uuid for each in faaspot.executions.list(status="Success", rerun=False)]

    async def talk() -> list[Any]:
        async with AsyncFaaspot(host=platform.url, token=platform.token) as both:
            return [await both.executions.rerun(good), await both.executions.rerun_all("half", status="Cancelled")]

    assert asyncio.run(talk())[1] == []


def test_who_is_told_of_an_end(faaspot: Faaspot, platform: Served) -> None:
    faaspot.deployments.create("echo", code=ECHO)
    execution = faaspot.deployments.run("echo", callback_url="https://example.com/hook")
    told = faaspot.executions.callback(execution)
    assert (told.status, told.origin, len(told.tries)) == ("delivered", "https://example.com", 2)
    assert faaspot.tokens.callback_secret() == "whsec_admin"

    async def talk() -> list[Any]:
        async with AsyncFaaspot(host=platform.url, token=platform.token) as both:
            return [(await both.executions.callback(execution)).next, await both.tokens.callback_secret()]

    assert asyncio.run(talk()) == [None, "whsec_admin"]
