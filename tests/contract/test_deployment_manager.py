"""The laws of a deployment manager, each by the name that it has in its specification (D1 to D39).

The connectors here are fakes that write down when they begin and end, and wait for the test to let them go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from faaspot_runner.connectors.base import Request
from faaspot_runner.contract import SandboxSpec
from faaspot_runner.runtimes import (
    Connector,
    DefaultDeploymentManager,
    DeploymentConfig,
    DeploymentDefinitionError,
    DeploymentError,
    DeploymentManager,
)
from faaspot_runner.sandbox.spec import Interpreter, Material
from tests.staged import Boom, FakeConnector, FakeWrapper, Stage

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr(FakeConnector, "stage", stage, raising=False)
    return stage


TYPES: Mapping[str, type[Connector]] = {"fake": FakeConnector, "wrapper": FakeWrapper}
Make = Callable[..., DefaultDeploymentManager]


def config(name: str, **more: Any) -> DeploymentConfig:
    """A runtime that comes up at once unless said otherwise."""
    kind = "wrapper" if more.get("wraps") else "fake"
    return DeploymentConfig(**{"name": name, "type": kind, "lazy": False, **more})


def manager(*configs: DeploymentConfig) -> DefaultDeploymentManager:
    return DefaultDeploymentManager(TYPES, {each.name: each for each in configs})


def a_request() -> Request:
    python = Interpreter(
        executable=Path("/usr/bin/python3"),
        prefix=Path("/usr"),
        version="3.11",
        full_version="3.11.2",
    )
    spec = SandboxSpec(version_id="v", deployment="d", version=1, runtime="a", python="3.11", code="0" * 64)
    return Request(execution_id="e", spec=spec, material=Material(code=b"", python=python))


async def settle() -> None:
    """Let every task that can go on go on, until all of them wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def outcomes(*calls: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


def run(test: Callable[[Stage], AsyncIterator[None] | Awaitable[None]]) -> Callable[[Stage], None]:
    """A test on an event loop of its own."""

    def runner(stage: Stage) -> None:
        asyncio.run(test(stage))  # type: ignore[arg-type]

    runner.__name__, runner.__doc__ = test.__name__, test.__doc__
    return runner


# ---------------------------------------------------------------- interface


@run
async def test_d1_the_five_methods_return_nothing_but_get_connector(stage: Stage) -> None:
    it: DeploymentManager = manager()
    assert await it.deploy(config("a")) is None  # type: ignore[func-returns-value]
    assert isinstance(it.get_connector("a"), Connector)
    assert await it.undeploy("a") is None  # type: ignore[func-returns-value]
    assert await it.undeploy_all() is None  # type: ignore[func-returns-value]
    assert await it.close() is None  # type: ignore[func-returns-value]


def test_d2_a_config_is_frozen_lazy_by_default_and_ours() -> None:
    it = DeploymentConfig(name="a", type="fake")
    assert (it.lazy, it.external, it.workdir, it.wraps, dict(it.config)) == (True, False, None, None, {})
    with pytest.raises(AttributeError):
        it.lazy = False  # type: ignore[misc]


def test_d3_a_connector_has_the_methods_that_a_runtime_needs() -> None:
    assert {"deploy", "undeploy", "open", "run"} <= set(dir(Connector))
    assert Connector.__abstractmethods__ == {"deploy", "undeploy"}
    assert Connector.can_wrap is False


@run
async def test_d4_the_workdir_is_inherited_from_what_is_wrapped(stage: Stage) -> None:
    inner, middle = config("in", workdir="/w"), config("mid", wraps="in")
    it = manager(inner, middle)
    await it.deploy(config("out", wraps="mid"))
    assert [made.config.workdir for made in stage.made] == ["/w", "/w", "/w"]
    await it.deploy(config("other", wraps="mid", workdir="/o"))
    assert stage.made[-1].config.workdir == "/o"


# ---------------------------------------------------------------- deploy


@run
async def test_d5_deploy_builds_the_connector_of_its_type_and_deploys_it_once(stage: Stage) -> None:
    it = manager()
    wanted = config("a", config={"key": 1})
    await it.deploy(wanted)
    assert stage.log == ["deploy a begins", "deploy a ends"]
    assert [made.config for made in stage.made] == [wanted]


@run
async def test_d6_many_callers_one_deploy_and_all_return_after_it(stage: Stage) -> None:
    it = manager()
    gate = stage.hold("deploy a")
    calls = [asyncio.create_task(it.deploy(config("a"))) for _ in range(10)]
    await stage.saw("deploy a begins")
    await settle()
    assert not any(call.done() for call in calls)
    gate.set()
    await asyncio.gather(*calls)
    assert stage.count("deploy a begins") == 1


@run
async def test_d7_a_second_deploy_does_nothing_but_another_config_is_refused(stage: Stage) -> None:
    it = manager()
    await it.deploy(config("a"))
    await it.deploy(config("a"))
    assert stage.count("deploy a begins") == 1
    with pytest.raises(DeploymentDefinitionError, match="another configuration") as caught:
        await it.deploy(config("a", config={"key": 1}))
    assert caught.value.name == "a"


@run
async def test_d8_of_a_failing_deploy_one_gets_the_error_and_the_others_a_deployment_error(stage: Stage) -> None:
    it = manager()
    stage.failing.add("deploy a")
    results = await outcomes(*(it.deploy(config("a")) for _ in range(3)))
    own = [result for result in results if isinstance(result, Boom)]
    others = [result for result in results if isinstance(result, DeploymentError)]
    assert (len(own), len(others)) == (1, 2)
    assert all(other.__cause__ is own[0] and str(other).startswith("FAILED deployment of a") for other in others)
    assert stage.count("deploy a begins") == 1
    assert it.get_connector("a") is None


@run
async def test_d9_after_a_failure_the_name_is_free_and_a_later_deploy_tries_again(stage: Stage) -> None:
    it = manager()
    stage.failing.add("deploy a")
    with pytest.raises(Boom):
        await it.deploy(config("a"))
    stage.failing.clear()
    await it.deploy(config("a", config={"better": True}))
    assert it.get_connector("a") is not None


@run
async def test_d10_an_impossible_definition_raises_the_same_error_again_and_never_hangs(stage: Stage) -> None:
    it = manager(config("bad"))
    stage.failing.add("deploy bad")
    for _ in range(2):
        with pytest.raises(DeploymentDefinitionError, match="unknown type"):
            await it.deploy(config("a", type="nothing"))
        with pytest.raises(DeploymentDefinitionError, match="No valid deployment configuration for missing"):
            await it.deploy(config("b", wraps="missing"))
        with pytest.raises(Boom):
            await it.deploy(config("c", wraps="bad"))
    assert it.get_connector("a") is it.get_connector("b") is it.get_connector("c") is None


@run
async def test_d11_there_is_no_connector_before_during_deploy_and_during_undeploy(stage: Stage) -> None:
    it = manager()
    assert it.get_connector("a") is None
    gate = stage.hold("deploy a")
    coming = asyncio.create_task(it.deploy(config("a")))
    await stage.saw("deploy a begins")
    assert it.get_connector("a") is None
    gate.set()
    await coming
    assert it.get_connector("a") is not None
    gate = stage.hold("undeploy a")
    going = asyncio.create_task(it.undeploy("a"))
    await stage.saw("undeploy a begins")
    assert it.get_connector("a") is None
    gate.set()
    await going


@run
async def test_d12_after_undeploy_the_same_name_comes_up_with_a_new_connector(stage: Stage) -> None:
    it = manager()
    await it.deploy(config("a"))
    first = it.get_connector("a")
    await it.undeploy("a")
    await it.deploy(config("a"))
    assert it.get_connector("a") is not first
    assert len(stage.made) == 2


@run
async def test_d13_a_deploy_during_an_undeploy_waits_for_its_end(stage: Stage) -> None:
    it = manager()
    await it.deploy(config("a"))
    gate = stage.hold("undeploy a")
    going = asyncio.create_task(it.undeploy("a"))
    await stage.saw("undeploy a begins")
    coming = asyncio.create_task(it.deploy(config("a")))
    await settle()
    assert stage.count("deploy a begins") == 1
    gate.set()
    await asyncio.gather(going, coming)
    assert stage.log[2:] == ["undeploy a begins", "undeploy a ends", "deploy a begins", "deploy a ends"]


# ---------------------------------------------------------------- lazy and external


@run
async def test_d14_a_lazy_runtime_is_known_but_nothing_is_deployed(stage: Stage) -> None:
    it = manager(config("in"))
    await it.deploy(config("a", lazy=True))
    await it.deploy(config("b", lazy=True, wraps="in"))
    assert it.get_connector("a") is not None
    assert stage.log == []


@run
async def test_d15_the_first_use_of_a_lazy_runtime_deploys_it_once(stage: Stage) -> None:
    it = manager()
    await it.deploy(config("a", lazy=True))
    connector = it.get_connector("a")
    assert connector is not None
    gate = stage.hold("deploy a")
    uses = [asyncio.create_task(connector.run(a_request())) for _ in range(4)]
    await stage.saw("deploy a begins")
    await settle()
    assert "run a begins" not in stage.log
    gate.set()
    assert [outcome.output for outcome in await asyncio.gather(*uses)] == ['"a"'] * 4
    assert stage.count("deploy a begins") == 1


@run
async def test_d16_a_lazy_failure_goes_to_all_users_and_a_later_use_tries_again(stage: Stage) -> None:
    it = manager()
    await it.deploy(config("a", lazy=True))
    connector = it.get_connector("a")
    assert connector is not None
    stage.failing.add("deploy a")
    results = await outcomes(*(connector.run(a_request()) for _ in range(3)))
    assert [type(result) for result in results] == [Boom, DeploymentError, DeploymentError]
    assert stage.count("deploy a begins") == 1
    stage.failing.clear()
    await connector.run(a_request())
    assert it.get_connector("a") is connector


@run
async def test_d16_after_a_lazy_failure_the_name_is_free_for_another_definition(stage: Stage) -> None:
    it = manager()
    await it.deploy(config("a", lazy=True))
    old = it.get_connector("a")
    assert old is not None
    stage.failing.add("deploy a")
    await outcomes(old.run(a_request()))
    stage.failing.clear()
    await it.deploy(config("a", config={"better": True}))
    with pytest.raises(DeploymentError):
        await old.run(a_request())


@run
async def test_d17_a_lazy_runtime_never_used_is_not_undeployed(stage: Stage) -> None:
    it = manager()
    await it.deploy(config("a", lazy=True))
    await it.undeploy("a")
    assert stage.log == []
    assert it.get_connector("a") is None


@run
async def test_d18_an_external_runtime_is_only_connected(stage: Stage) -> None:
    it = manager()
    await it.deploy(config("a", external=True))
    await it.undeploy("a")
    assert stage.made[0].external == [True, True]


def test_d19_managed_runtimes_are_logged_and_external_ones_are_not(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        it = manager()
        await it.deploy(config("n"))
        await it.deploy(config("e", external=True))
        await it.undeploy_all()

    with caplog.at_level(logging.INFO):
        asyncio.run(test())
    assert [record.getMessage() for record in caplog.records if record.name.startswith("faaspot_runner")] == [
        "DEPLOYING n",
        "COMPLETED deployment of n",
        "UNDEPLOYING n",
        "COMPLETED undeployment of n",
    ]


# ---------------------------------------------------------------- wraps


@run
async def test_d20_a_stack_comes_up_innermost_first(stage: Stage) -> None:
    it = manager(config("in"), config("mid", wraps="in"))
    await it.deploy(config("out", wraps="mid"))
    assert stage.log == [f"deploy {name} {what}" for name in ("in", "mid", "out") for what in ("begins", "ends")]


@run
async def test_d20_a_lazy_inner_runtime_is_up_before_its_wrapper(stage: Stage) -> None:
    it = manager(config("in", lazy=True))
    await it.deploy(config("out", wraps="in"))
    assert stage.before("deploy in ends", "deploy out begins")


@run
async def test_d21_two_wrappers_share_one_inner_that_is_up_before_either_begins(stage: Stage) -> None:
    it = manager(config("in"))
    gate = stage.hold("deploy in")
    both = [asyncio.create_task(it.deploy(config(name, wraps="in"))) for name in ("out", "out2")]
    await stage.saw("deploy in begins")
    await settle()
    assert stage.log == ["deploy in begins"]
    gate.set()
    await asyncio.gather(*both)
    assert stage.count("deploy in begins") == 1
    assert stage.before("deploy in ends", "deploy out begins")
    assert stage.before("deploy in ends", "deploy out2 begins")


@run
async def test_d22_a_wrapper_gets_the_inner_connector(stage: Stage) -> None:
    it = manager(config("in"))
    await it.deploy(config("out", wraps="in"))
    inner, outer = stage.made
    assert (outer.config.name, outer.inner, inner.inner) == ("out", inner, None)


@run
async def test_d24_wraps_on_a_type_that_cannot_wrap_is_a_definition_error(stage: Stage) -> None:
    it = manager(config("in"))
    with pytest.raises(DeploymentDefinitionError, match="cannot wrap"):
        await it.deploy(config("out", type="fake", wraps="in"))
    assert stage.log == []


@run
async def test_d25_an_unknown_wrapped_name_is_a_definition_error_that_names_it(stage: Stage) -> None:
    with pytest.raises(DeploymentDefinitionError, match="No valid deployment configuration for nowhere"):
        await manager().deploy(config("out", wraps="nowhere"))


@pytest.mark.parametrize("circle", [("a",), ("a", "b"), ("a", "b", "c")])
def test_d26_circular_wraps_are_refused_before_anything_is_deployed(stage: Stage, circle: tuple[str, ...]) -> None:
    following = dict(zip(circle, (*circle[1:], circle[0]), strict=True))
    configs = [config(name, wraps=wrapped) for name, wrapped in following.items()]

    async def test() -> None:
        it = manager(*configs)
        for _ in range(2):
            with pytest.raises(DeploymentDefinitionError, match="circular"):
                await it.deploy(configs[0])

    asyncio.run(test())
    assert stage.log == []


@run
async def test_d26_a_circle_that_was_closed_after_a_lazy_deploy_is_refused_at_the_first_use(stage: Stage) -> None:
    configs = {"a": config("a", lazy=True, wraps="b"), "b": config("b", lazy=True)}
    it = DefaultDeploymentManager(TYPES, configs)
    await it.deploy(configs["a"])
    connector = it.get_connector("a")
    assert connector is not None
    configs["b"] = config("b", lazy=True, wraps="a")
    for _ in range(2):
        with pytest.raises(DeploymentDefinitionError, match="circular"):
            await connector.run(a_request())
    assert stage.log == []


@run
async def test_d27_one_inner_may_be_wrapped_by_many(stage: Stage) -> None:
    it = manager(config("in"))
    for number in range(5):
        await it.deploy(config(f"out{number}", wraps="in"))
    assert stage.count("deploy in begins") == 1


# ---------------------------------------------------------------- undeploy


@run
async def test_d28_undeploy_of_an_unknown_name_does_nothing(stage: Stage) -> None:
    await manager().undeploy("nobody")
    assert stage.log == []


@run
async def test_d29_concurrent_undeploys_are_one_and_all_wait_for_it(stage: Stage) -> None:
    it = manager()
    await it.deploy(config("a"))
    gate = stage.hold("undeploy a")
    calls = [asyncio.create_task(it.undeploy("a")) for _ in range(3)]
    await stage.saw("undeploy a begins")
    await settle()
    assert not any(call.done() for call in calls)
    gate.set()
    await asyncio.gather(*calls)
    assert stage.count("undeploy a begins") == 1
    assert it.get_connector("a") is None


@run
async def test_d29_a_failed_undeploy_is_told_to_all_and_can_be_tried_again(stage: Stage) -> None:
    it = manager()
    await it.deploy(config("a"))
    stage.failing.add("undeploy a")
    results = await outcomes(it.undeploy("a"), it.undeploy("a"))
    assert [type(result) for result in results] == [Boom, DeploymentError]
    assert it.get_connector("a") is not None
    stage.failing.clear()
    await it.undeploy("a")
    assert it.get_connector("a") is None


@run
async def test_d30_an_undeploy_during_a_deploy_waits_and_then_undeploys(stage: Stage) -> None:
    it = manager()
    gate = stage.hold("deploy a")
    coming = asyncio.create_task(it.deploy(config("a")))
    await stage.saw("deploy a begins")
    going = asyncio.create_task(it.undeploy("a"))
    await settle()
    assert stage.log == ["deploy a begins"]
    gate.set()
    await asyncio.gather(coming, going)
    assert stage.log == ["deploy a begins", "deploy a ends", "undeploy a begins", "undeploy a ends"]


@run
async def test_d31_an_implicit_inner_goes_down_after_its_wrapper_and_an_explicit_one_stays(stage: Stage) -> None:
    it = manager(config("in"))
    await it.deploy(config("out", wraps="in"))
    await it.undeploy("out")
    assert stage.log[-4:] == ["undeploy out begins", "undeploy out ends", "undeploy in begins", "undeploy in ends"]
    stage.log.clear()
    await it.deploy(config("in"))
    await it.deploy(config("out", wraps="in"))
    await it.undeploy("out")
    assert "undeploy in begins" not in stage.log
    await it.undeploy("in")
    assert stage.log[-1] == "undeploy in ends"


@run
async def test_d32_an_inner_in_use_stays_until_its_last_wrapper_is_down(stage: Stage) -> None:
    it = manager()
    await it.deploy(config("in"))
    await it.deploy(config("out", wraps="in"))
    await it.undeploy("in")
    assert "undeploy in begins" not in stage.log
    assert it.get_connector("in") is not None
    await it.undeploy("out")
    assert stage.before("undeploy out ends", "undeploy in begins")
    assert it.get_connector("in") is None


@run
async def test_d33_with_two_wrappers_the_inner_goes_after_the_second(stage: Stage) -> None:
    it = manager(config("in"))
    await it.deploy(config("out", wraps="in"))
    await it.deploy(config("out2", wraps="in"))
    await it.undeploy("out")
    assert "undeploy in begins" not in stage.log
    await it.undeploy("out2")
    assert stage.before("undeploy out2 ends", "undeploy in begins")


@run
async def test_d34_undeploy_all_goes_from_the_outermost_in_and_takes_stacks_side_by_side(stage: Stage) -> None:
    it = manager(config("in"), config("mid", wraps="in"))
    await it.deploy(config("out", wraps="mid"))
    await it.deploy(config("alone"))
    out, alone = stage.hold("undeploy out"), stage.hold("undeploy alone")
    clearing = asyncio.create_task(it.undeploy_all())
    await stage.saw("undeploy out begins")
    await stage.saw("undeploy alone begins")
    await settle()
    assert "undeploy mid begins" not in stage.log
    out.set()
    await stage.saw("undeploy in ends")
    alone.set()
    await clearing
    assert stage.before("undeploy out ends", "undeploy mid begins")
    assert stage.before("undeploy mid ends", "undeploy in begins")


@run
async def test_d35_undeploy_all_tries_all_and_reports_every_failure(stage: Stage) -> None:
    it = manager(config("in"))
    await it.deploy(config("out", wraps="in"))
    for name in ("a", "b", "c"):
        await it.deploy(config(name))
    stage.failing |= {"undeploy a", "undeploy b", "undeploy out"}
    with pytest.raises(ExceptionGroup) as caught:
        await it.undeploy_all()
    failed = caught.value.exceptions
    assert all(isinstance(error, DeploymentError) and isinstance(error.__cause__, Boom) for error in failed)
    assert sorted(error.name for error in failed if isinstance(error, DeploymentError)) == ["a", "b", "out"]
    assert "undeploy c ends" in stage.log
    assert stage.before("undeploy out fails", "undeploy in begins")
    assert all(it.get_connector(name) is not None for name in ("a", "b", "out"))
    stage.failing.clear()
    await it.undeploy("a")
    await it.undeploy_all()
    assert all(it.get_connector(name) is None for name in ("a", "b", "out"))


@run
async def test_d36_close_frees_everything(stage: Stage) -> None:
    it = manager(config("in"))
    await it.deploy(config("out", wraps="in"))
    await it.deploy(config("lazy", lazy=True))
    await it.close()
    assert all(it.get_connector(name) is None for name in ("in", "out", "lazy"))
    assert stage.before("undeploy out ends", "undeploy in begins")


@run
async def test_d36_close_waits_for_what_is_coming_up_and_takes_it_down(stage: Stage) -> None:
    it = manager()
    gate = stage.hold("deploy a")
    coming = asyncio.create_task(it.deploy(config("a")))
    await stage.saw("deploy a begins")
    closing = asyncio.create_task(it.close())
    await settle()
    gate.set()
    await asyncio.gather(coming, closing)
    assert stage.log[-1] == "undeploy a ends"


@pytest.mark.parametrize("lazy", [False, True])
def test_d39_a_connector_kept_after_its_undeploy_is_invalid(stage: Stage, lazy: bool) -> None:
    async def test() -> None:
        it = manager()
        await it.deploy(config("a", lazy=lazy))
        kept = it.get_connector("a")
        assert kept is not None
        await kept.run(a_request())
        await it.undeploy("a")
        with pytest.raises(DeploymentError, match="undeployed") as caught:
            await kept.run(a_request())
        assert caught.value.name == "a"
        await it.deploy(config("a", lazy=lazy))
        with pytest.raises(DeploymentError):
            await kept.run(a_request())

    asyncio.run(test())
    assert stage.count("run a begins") == 1


# ---------------------------------------------------------------- how it stands


@run
async def test_a_state_is_told_at_every_step_and_a_failure_until_it_is_tried_again(stage: Stage) -> None:
    told: list[str] = []
    it = DefaultDeploymentManager(TYPES, {}, lambda: told.append(it.state("a").status))
    assert it.state("a").status == "undeployed"
    gate = stage.hold("deploy a")
    coming = asyncio.create_task(it.deploy(config("a")))
    await stage.saw("deploy a begins")
    assert it.state("a").status == "deploying"
    gate.set()
    await coming
    assert it.state("a").status == "deployed"
    stage.failing.add("undeploy a")
    with pytest.raises(Boom):
        await it.undeploy("a")
    assert (it.state("a").status, it.state("a").error) == ("failed", "undeploy a")
    stage.failing.clear()
    await it.undeploy("a")
    assert it.state("a").status == "undeployed"
    assert list(dict.fromkeys(told)) == ["deploying", "deployed", "undeploying", "failed", "undeployed"]


@run
async def test_a_lazy_runtime_is_undeployed_until_its_first_use_and_failed_after_a_bad_one(stage: Stage) -> None:
    it = manager()
    await it.deploy(config("a", lazy=True))
    assert it.state("a").status == "undeployed"
    connector = it.get_connector("a")
    assert connector is not None
    stage.failing.add("deploy a")
    with pytest.raises(Boom):
        await connector.run(a_request())
    assert (it.state("a").status, it.state("a").error) == ("failed", "deploy a")
    stage.failing.clear()
    await connector.run(a_request())
    assert it.state("a").status == "deployed"
    assert it.standing("a") == config("a", lazy=True)


# ---------------------------------------------------------------- cancelled callers


@run
async def test_a_cancelled_caller_cancels_nobody_elses_deploy(stage: Stage) -> None:
    it = manager()
    gate = stage.hold("deploy a")
    first = asyncio.create_task(it.deploy(config("a")))
    await stage.saw("deploy a begins")
    second = asyncio.create_task(it.deploy(config("a")))
    await settle()
    first.cancel()
    await settle()
    gate.set()
    await second
    assert first.cancelled()
    assert stage.log == ["deploy a begins", "deploy a ends"]
    assert it.get_connector("a") is not None


@run
async def test_a_cancelled_undeploy_still_takes_the_runtime_down(stage: Stage) -> None:
    it = manager()
    await it.deploy(config("a"))
    gate = stage.hold("undeploy a")
    going = asyncio.create_task(it.undeploy("a"))
    await stage.saw("undeploy a begins")
    going.cancel()
    await settle()
    gate.set()
    await stage.saw("undeploy a ends")
    await settle()
    assert it.get_connector("a") is None


@run
async def test_a_failed_wrapper_lets_go_of_the_inner_that_came_up_for_it(stage: Stage) -> None:
    it = manager(config("in"))
    stage.failing.add("deploy out")
    with pytest.raises(Boom):
        await it.deploy(config("out", wraps="in"))
    assert stage.log[-1] == "undeploy in ends"
    assert it.get_connector("in") is None
