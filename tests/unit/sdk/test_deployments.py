"""Deployments over the platform's own HTTP side, sync and async."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faaspot import AsyncFaaspot, Faaspot
from faaspot.errors import (
    BadArgument,
    Exists,
    FaaspotError,
    IdempotencyMismatch,
    Invalid,
    MissingFile,
    NotFound,
    RunError,
    UnreadableFile,
    WaitTimeout,
)
from faaspot_api.domain.model import RunOptions
from faaspot_api.errors import Unavailable
from tests.unit.sdk.served import Served, write

ECHO = "def main(args, context):\n    return args\n"
HALF = "def main(args, context):\n    return 1 / args['n']\n"


@pytest.fixture
def echo(faaspot: Faaspot) -> str:
    faaspot.deployments.create("echo", code=ECHO)
    return "echo"


# ---------------------------------------------------------------- making


def test_create_reads_the_files_and_gives_the_builds_id(faaspot: Faaspot, platform: Served, tmp_path: Path) -> None:
    code = write(tmp_path, "f.py", ECHO + "# ü 100%41\n")
    requirements = write(tmp_path, "r.txt", "idna==3.10\n")
    context = write(tmp_path, "c.txt", 'key = "välue"\n')

    build = faaspot.deployments.create("echo", file=code, requirements_file=requirements, context_file=context)

    assert isinstance(build, str)
    name, change = platform.services.state.calls[-1][1]
    assert (name, change.code) == ("echo", ECHO + "# ü 100%41\n")
    assert (change.requirements, change.context) == ("idna==3.10\n", 'key = "välue"\n')
    assert faaspot.executions.get(build).kind == "build"


def test_create_and_wait_gives_the_record_of_the_build(faaspot: Faaspot) -> None:
    record = faaspot.deployments.create("echo", code=ECHO, wait=True)

    assert not isinstance(record, str)
    assert (record.status, record.output) == ("Success", "version 1 is ready")


def test_an_open_file_and_a_context_of_values_do_as_well(faaspot: Faaspot, platform: Served, tmp_path: Path) -> None:
    with write(tmp_path, "f.py", ECHO).open() as file:
        faaspot.deployments.create("echo", file=file, context={"a": [1, "ü"]}, timeout=5, memory=64)

    change = platform.services.state.calls[-1][1][1]
    assert (change.code, change.context) == (ECHO, {"a": [1, "ü"]})
    assert (change.settings.timeout, change.settings.memory) == (5.0, 64)


def test_nothing_is_sent_when_a_file_is_missing_or_a_part_is_said_twice(
    faaspot: Faaspot, platform: Served, tmp_path: Path
) -> None:
    code = write(tmp_path, "f.py", ECHO)
    with pytest.raises(MissingFile, match=r"Missing file in path: .*none\.txt"):
        faaspot.deployments.create("echo", file=code, requirements_file=tmp_path / "none.txt")
    with pytest.raises(UnreadableFile, match="Is a directory"):
        faaspot.deployments.create("echo", file=tmp_path)
    for wrong in (
        {"file": code, "code": ECHO},
        {"code": ECHO, "context": {}, "context_file": code},
        {"code": ECHO, "context": "", "context_file": code},
        {},
    ):
        with pytest.raises(FaaspotError):
            faaspot.deployments.create("echo", **wrong)
    assert platform.services.state.calls == []


def test_the_platforms_refusals_come_out_as_their_errors(faaspot: Faaspot, echo: str) -> None:
    with pytest.raises(Exists):
        faaspot.deployments.create(echo, code=ECHO)
    with pytest.raises(Invalid, match="main") as caught:
        faaspot.deployments.create("other", code="x = 1\n")
    assert caught.value.errors[0].field == "code"
    with pytest.raises(Invalid, match="concurrency"):
        faaspot.deployments.create("other", code=ECHO, concurrency="three")  # type: ignore[arg-type]


def test_the_same_run_under_the_same_key_is_the_same_execution(faaspot: Faaspot, platform: Served, echo: str) -> None:
    first = faaspot.deployments.run(echo, {"n": 1}, idempotency_key="k", max_age=9)
    assert platform.services.state.calls[-2][1][2] == RunOptions(key="k", max_age=9.0)
    assert faaspot.deployments.run(echo, {"n": 1}, idempotency_key="k", max_age=9) == first
    assert faaspot.deployments.run(echo, {"n": 1}, wait=True, idempotency_key="k", max_age=9) == {"n": 1}
    with pytest.raises(IdempotencyMismatch):
        faaspot.deployments.run(echo, {"n": 2}, idempotency_key="k")
    several = faaspot.deployments.run_bulk(echo, [{"n": 1}, {"n": 2}], idempotency_key="many")
    assert faaspot.deployments.run_bulk(echo, [{"n": 1}, {"n": 2}], idempotency_key="many") == several
    with pytest.raises(BadArgument, match="max_age"):
        faaspot.deployments.run(echo, max_age="soon")  # type: ignore[typeddict-item]


def test_update_sends_only_what_is_given(faaspot: Faaspot, platform: Served, echo: str) -> None:
    build = faaspot.deployments.update(echo, context={"a": 1}, new_name="echo2", memory=64)

    name, change = platform.services.state.calls[-1][1]
    assert (name, change.name, change.code, change.requirements) == ("echo", "echo2", None, None)
    assert faaspot.executions.get(build).status == "Success"
    with pytest.raises(FaaspotError, match="Nothing to update"):
        faaspot.deployments.update("echo2")


# ---------------------------------------------------------------- reading


def test_get_gives_the_code_as_plain_text_and_list_what_there_is(faaspot: Faaspot) -> None:
    code = ECHO + "# 100% ü\n"
    faaspot.deployments.create("echo", code=code)

    assert faaspot.deployments.get("echo").code == code
    assert faaspot.deployments.get("echo")["name"] == "echo"
    assert [each.name for each in faaspot.deployments.list()] == ["echo"]
    with pytest.raises(NotFound):
        faaspot.deployments.get("../spots")


def test_versions_and_rollback(faaspot: Faaspot, echo: str) -> None:
    faaspot.deployments.update(echo, code="def main(args, context):\n    return 2\n")
    assert faaspot.deployments.run(echo, wait=True) == 2

    record = faaspot.deployments.rollback(echo, 1, wait=True)

    assert not isinstance(record, str)
    assert faaspot.deployments.run(echo, {"a": 1}, wait=True) == {"a": 1}
    assert [each.version for each in faaspot.deployments.versions(echo)] == [1, 2]
    assert faaspot.deployments.version(echo, 1).code == ECHO


def test_delete(faaspot: Faaspot, echo: str) -> None:
    assert isinstance(faaspot.deployments.delete(echo), str)
    with pytest.raises(NotFound):
        faaspot.deployments.get(echo)


# ---------------------------------------------------------------- running


def test_run_gives_the_bare_id_and_with_wait_the_result_with_its_types(faaspot: Faaspot, echo: str) -> None:
    args = {"a": 1, "b": [1, 2.5, None, True], "ü": {"c": "d"}}

    execution = faaspot.deployments.run(echo, args)

    assert len(execution) == 36
    assert faaspot.executions().get(execution)["status"] == "Success"
    assert faaspot.deployments.run(echo, args, wait=True) == args
    assert faaspot.deployments.run(echo, wait=True) == {}


def test_a_failed_run_raises_its_error_with_the_remote_traceback(faaspot: Faaspot) -> None:
    faaspot.deployments.create("half", code=HALF)

    with pytest.raises(RunError, match="division by zero") as caught:
        faaspot.deployments.run("half", {"n": 0}, wait=True)
    error = caught.value
    assert (error.status, error.reason, error.type) == (500, "error", "ZeroDivisionError")
    assert "in main" in (error.traceback or "")
    assert faaspot.executions.get(error.execution_id or "").status == "Failure"


def test_a_wait_may_be_limited_and_the_run_goes_on(faaspot: Faaspot, platform: Served) -> None:
    faaspot.deployments.create("slow", code="def main(args, context):\n    pass  # never ends\n")

    with pytest.raises(WaitTimeout) as caught:
        faaspot.deployments.run("slow", wait=True, timeout=1)
    assert platform.services.state.calls[-2][1][2] == 1.0
    assert faaspot.executions.get(caught.value.execution_id or "").status == "Started"


def test_a_wait_goes_on_where_the_web_process_that_held_it_restarts(
    faaspot: Faaspot, platform: Served, echo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = platform.services.executions

    def restarts(who: Any, name: str, args: str, *_: Any) -> Any:
        execution = services.run(who, name, args)
        raise Unavailable("restarts", code="restarting", retry_after=1, execution_id=execution.uuid)

    monkeypatch.setattr(services, "run_wait", restarts)
    assert faaspot.deployments.run(echo, {"n": 1}, wait=True) == {"n": 1}
    faaspot.deployments.create("half", code=HALF)
    with pytest.raises(RunError, match="division by zero"):
        faaspot.deployments.run("half", {"n": 0}, wait=True)


def test_the_error_of_a_run_is_the_same_however_it_was_waited_for(faaspot: Faaspot) -> None:
    faaspot.deployments.create("half", code=HALF)
    zero = {"n": 0}

    def waited() -> Iterator[Callable[[], Any]]:
        yield lambda: faaspot.deployments.run("half", zero, wait=True)
        yield lambda: faaspot.deployments.run_bulk("half", [zero], wait=True)
        yield lambda: faaspot.executions.result(faaspot.deployments.run("half", zero))
        yield lambda: list(faaspot.deployments.map("half", [zero]))

    for call in waited():
        with pytest.raises(RunError) as caught:
            call()
        error = caught.value
        assert (str(error), error.status, error.type) == (
            "ZeroDivisionError: division by zero",
            500,
            "ZeroDivisionError",
        )
        assert len(error.execution_id or "") == 36


def test_a_bulk_with_a_failure_keeps_the_other_results_where_asked(faaspot: Faaspot) -> None:
    faaspot.deployments.create("half", code=HALF)

    results = faaspot.deployments.run_bulk("half", [{"n": 2}, {"n": 0}, {"n": 4}], wait=True, return_exceptions=True)

    assert (results[0], results[2]) == (0.5, 0.25)
    assert isinstance(results[1], RunError)


def test_arguments_that_cannot_be_sent_are_ours_and_pythons_errors(faaspot: Faaspot, platform: Served) -> None:
    calls: list[Callable[[Any], Any]] = [
        lambda wrong: faaspot.deployments.run("x", wrong),
        lambda wrong: faaspot.deployments.run("x", {"a": object()}),
        lambda wrong: faaspot.deployments.run("x", {}, wait=True, timeout=wrong),
        lambda wrong: faaspot.deployments.run_bulk("x", wrong),
        lambda wrong: faaspot.deployments.run_bulk("x", [wrong]),
        lambda wrong: faaspot.deployments.create("x", code=wrong if wrong != "text" else "\ud800"),
        lambda wrong: faaspot.deployments.create("x", code=ECHO, context=[wrong]),  # type: ignore[arg-type]
        lambda wrong: faaspot.deployments.version("x", wrong),
        lambda wrong: faaspot.executions.get(None),  # type: ignore[call-overload]
        lambda wrong: faaspot.executions.wait("x", timeout=wrong),
    ]
    for call in calls:
        for wrong in ("text", object()):
            with pytest.raises(BadArgument) as caught:
                call(wrong)
            assert isinstance(caught.value, ValueError)
            assert isinstance(caught.value, TypeError)
    assert platform.services.state.calls == []


def test_a_list_runs_each_and_run_bulk_does_the_same(faaspot: Faaspot, echo: str) -> None:
    items = [{"n": n} for n in range(5)]

    ids = faaspot.deployments.run(echo, items)

    assert [each.output for each in faaspot.executions.get(ids)] == items
    assert faaspot.deployments.run(echo, items, wait=True) == items
    assert faaspot.deployments.run_bulk(echo, iter(items), wait=True) == items
    assert len(faaspot.deployments.run_bulk(echo, items)) == 5


def test_a_bulk_larger_than_one_look_is_waited_for_whole(faaspot: Faaspot, echo: str) -> None:
    items = [{"n": n} for n in range(250)]

    assert faaspot.deployments.run_bulk(echo, items, wait=True) == items


def test_map_yields_results_in_order_and_never_looks_far_ahead(faaspot: Faaspot, echo: str) -> None:
    asked: list[int] = []

    def endless() -> Iterator[dict[str, int]]:
        n = 0
        while True:
            asked.append(n)
            yield {"n": n}
            n += 1

    results = faaspot.deployments.map(echo, endless(), look_ahead=3)

    assert asked == []
    assert [next(results)["n"] for _ in range(4)] == [0, 1, 2, 3]
    assert len(asked) == 5
    assert list(faaspot.deployments.map(echo, [{"n": 1}], look_ahead=0)) == [{"n": 1}]


def test_map_raises_or_yields_what_failed(faaspot: Faaspot) -> None:
    faaspot.deployments.create("half", code=HALF)
    items = [{"n": 2}, {"n": 0}, {"n": 4}]

    results = list(faaspot.deployments.map("half", items, return_exceptions=True))

    assert (results[0], results[2]) == (0.5, 0.25)
    assert isinstance(results[1], RunError)
    with pytest.raises(RunError):
        list(faaspot.deployments.map("half", items))
    records = list(faaspot.deployments.map("half", items, return_records=True))
    assert [record.status for record in records] == ["Success", "Failure", "Success"]


def test_the_async_client_does_all_of_it(platform: Served, tmp_path: Path) -> None:
    code = write(tmp_path, "f.py", ECHO)

    async def items() -> AsyncIterator[dict[str, int]]:
        for n in range(3):
            yield {"n": n}

    async def talk() -> Any:
        async with AsyncFaaspot(host=platform.url, token=platform.token) as faaspot:
            deployments = faaspot.deployments
            await deployments.create("echo", file=code, wait=True)
            await deployments.update("echo", memory=64)
            seen = {
                "ran": await deployments.run("echo", {"a": 1}, wait=True),
                "bulk": await deployments.run_bulk("echo", [{"a": 1}], wait=True),
                "mapped": [each async for each in deployments.map("echo", items(), look_ahead=2)],
                "mapped list": [each async for each in deployments.map("echo", [{"n": 9}])],
                "listed": [each.name for each in await deployments.list()],
                "versions": len(await deployments.versions("echo")),
                "version": (await deployments.version("echo", 1)).version,
            }
            await deployments.rollback("echo", 1, wait=True)
            seen["got"] = (await deployments.get("echo")).version
            await deployments.delete("echo")
            return seen

    assert asyncio.run(talk()) == {
        "ran": {"a": 1}, "bulk": [{"a": 1}], "mapped": [{"n": 0}, {"n": 1}, {"n": 2}], "mapped list": [{"n": 9}],
        "listed": ["echo"], "versions": 2, "version": 1, "got": 1,
    }  # fmt: skip


def test_what_comes_back_is_json(faaspot: Faaspot, echo: str) -> None:
    assert json.loads(json.dumps(faaspot.deployments.list()))[0]["name"] == "echo"
