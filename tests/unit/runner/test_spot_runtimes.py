"""What a spot makes of the runtimes that the API wants, with connectors that do nothing but wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from faaspot_runner.contract.runtimes import RuntimeDefinition, Runtimes, RuntimeType, RuntimeWanted, Wanted
from faaspot_runner.errors import SandboxError
from faaspot_runner.spot import runtimes as module
from faaspot_runner.spot.runtimes import SpotRuntimes, TypeMeans
from tests.staged import Boom, FakeConnector, FakeWrapper, Stage

pytestmark = pytest.mark.timeout(20)

OWN = ("fake", "wrapper", "far")


class Ward:
    """One spot's runtimes, and an API that says more and more of what it wants."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.cleared: list[str] = []
        self.changes = 0
        self.revision = 0
        self.wishes: dict[str, RuntimeWanted] = {}
        self.away: str | None = None
        means = {
            "fake": TypeMeans(),
            "wrapper": TypeMeans(),
            "far": TypeMeans(
                given={"engine": "theirs"}, defaults={"image": "usual"}, lazy=True, away=lambda: self.away
            ),
        }
        self.runtimes = SpotRuntimes(means, clear=self._clear, changed=self._changed)

    async def _clear(self, name: str) -> None:
        self.cleared.append(name)

    def _changed(self) -> None:
        self.changes += 1

    def want(self, name: str, wanted: Wanted | None, **more: Any) -> None:
        """Say that a runtime shall be so, and nothing new of the others."""
        self.revision += 1
        if wanted is None:
            del self.wishes[name]
        else:
            known = self.wishes[name].definition if name in self.wishes else None
            kind = "wrapper" if more.get("wraps") else "fake"
            definition = known or RuntimeDefinition(**{"name": name, "type": kind, "lazy": False, **more})
            self.wishes[name] = RuntimeWanted(definition=definition, wanted=wanted, asked=self.revision)
        self.say()

    def say(self) -> None:
        self.runtimes.want(Runtimes(revision=self.revision, wanted=tuple(self.wishes.values())))

    async def settled(self) -> None:
        """Every runtime is as it was wanted, or has failed."""
        while tasks := list(self.runtimes._tasks.values()):
            await asyncio.wait(tasks)

    def status(self, name: str) -> str:
        return self.runtimes.states()[name].status


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr(FakeConnector, "stage", stage, raising=False)
    types = {"fake": RuntimeType(egress=True), "wrapper": RuntimeType(egress=True), "far": RuntimeType()}
    monkeypatch.setattr(module, "RUNTIME_TYPES", types)
    monkeypatch.setattr(module, "CONNECTORS", {"fake": FakeConnector, "wrapper": FakeWrapper, "far": FakeConnector})
    return stage


def run(test: Callable[[Ward], Awaitable[None]]) -> Callable[[Stage], None]:
    """A test on an event loop of its own; afterwards nothing may stand."""

    def runner(stage: Stage) -> None:
        async def whole() -> None:
            ward = Ward(stage)
            await ward.runtimes.begin()
            await test(ward)
            await ward.runtimes.close()

        asyncio.run(whole())

    runner.__name__, runner.__doc__ = test.__name__, test.__doc__
    return runner


@run
async def test_what_the_spot_offers_by_itself_is_up_from_the_start(ward: Ward) -> None:
    assert ward.runtimes.names == OWN
    assert ward.status("fake") == "deployed"
    assert (await ward.runtimes.connector("fake")).config.name == "fake"


@run
async def test_a_runtime_is_brought_up_and_down_as_wanted(ward: Ward) -> None:
    ward.want("a", "down")
    await ward.settled()
    assert (ward.status("a"), ward.runtimes.names) == ("undeployed", OWN)
    ward.want("a", "up")
    await ward.settled()
    assert (ward.status("a"), ward.runtimes.names[-1]) == ("deployed", "a")
    assert ward.runtimes.states()["a"].asked == ward.revision
    ward.want("a", "down")
    await ward.settled()
    assert (ward.status("a"), ward.cleared) == ("undeployed", ["a"])
    ward.want("a", None)
    await ward.settled()
    assert "a" not in ward.runtimes.states()
    assert ward.changes > 0


@run
async def test_a_lazy_one_comes_up_at_its_first_use_once_however_many_ask(ward: Ward) -> None:
    ward.want("a", "known", lazy=True)
    await ward.settled()
    assert (ward.status("a"), "deploy a begins" in ward.stage.log) == ("undeployed", False)
    await asyncio.gather(*(ward.runtimes.connector("a") for _ in range(10)))
    assert ward.stage.count("deploy a begins") == 1
    assert ward.status("a") == "deployed"


@run
async def test_an_older_word_is_not_followed_and_the_same_does_nothing_twice(ward: Ward) -> None:
    ward.want("a", "up")
    await ward.settled()
    for _ in range(3):
        ward.say()
        ward.runtimes.want(Runtimes(revision=0))
    await ward.settled()
    assert ward.stage.count("deploy a begins") == 1
    assert ward.status("a") == "deployed"


@run
async def test_one_that_takes_long_holds_up_no_other_and_what_is_said_meanwhile_is_followed(ward: Ward) -> None:
    gate = ward.stage.hold("deploy slow")
    ward.want("slow", "up")
    await ward.stage.saw("deploy slow begins")
    assert ward.status("slow") == "deploying"
    ward.want("quick", "up")
    await ward.stage.saw("deploy quick ends")
    ward.want("slow", "down")
    gate.set()
    await ward.settled()
    assert (ward.status("slow"), ward.status("quick")) == ("undeployed", "deployed")


@run
async def test_a_failure_is_told_and_tried_again_when_asked_anew(ward: Ward) -> None:
    ward.stage.failing.add("deploy a")
    ward.want("a", "up")
    await ward.settled()
    state = ward.runtimes.states()["a"]
    assert (state.status, state.error, state.asked) == ("failed", "deploy a", ward.revision)
    ward.stage.failing.clear()
    ward.want("a", "up")
    await ward.settled()
    assert (ward.status("a"), ward.runtimes.states()["a"].error) == ("deployed", None)


@run
async def test_a_use_of_one_that_failed_tries_it_again_and_tells_why_it_cannot(ward: Ward) -> None:
    ward.stage.failing.add("deploy a")
    ward.want("a", "known", lazy=True)
    await ward.settled()
    for _ in range(2):
        with pytest.raises(SandboxError, match="did not come up on this spot: deploy a") as caught:
            await ward.runtimes.connector("a")
        assert caught.value.reason == "no_spot"
        assert isinstance(caught.value.__cause__, Boom)
    assert ward.status("a") == "failed"
    ward.stage.failing.clear()
    await ward.runtimes.connector("a")
    assert ward.status("a") == "deployed"


@run
async def test_one_out_of_service_is_refused_with_what_to_do(ward: Ward) -> None:
    with pytest.raises(SandboxError, match="does not offer the runtime a"):
        await ward.runtimes.connector("a")
    ward.want("a", "down")
    await ward.settled()
    with pytest.raises(SandboxError, match="fas runtimes deploy a") as caught:
        await ward.runtimes.connector("a")
    assert caught.value.reason == "no_spot"


@run
async def test_a_use_waits_for_one_that_is_coming_up(ward: Ward) -> None:
    gate = ward.stage.hold("deploy a")
    ward.want("a", "up")
    use = asyncio.create_task(ward.runtimes.connector("a"))
    await ward.stage.saw("deploy a begins")
    assert not use.done()
    gate.set()
    assert (await use).config.name == "a"


# ---------------------------------------------------------------- a type that comes and goes


@run
async def test_what_is_away_is_not_offered_with_all_that_stands_on_it_until_it_is_back(ward: Ward) -> None:
    ward.want("mine", "known", type="far", lazy=True)
    ward.want("out", "known", wraps="mine", lazy=True)
    await ward.settled()
    assert ward.runtimes.names == (*OWN, "mine", "out")
    ward.away = "no engine"
    assert ward.runtimes.names == ("fake", "wrapper")
    ward.away = None
    assert ward.runtimes.names == (*OWN, "mine", "out")


@run
async def test_a_lazy_built_in_one_comes_up_at_its_first_use_and_one_that_is_away_is_not_waited_for(ward: Ward) -> None:
    assert ward.status("far") == "undeployed"
    ward.want("out", "known", wraps="far", lazy=True)
    await ward.settled()
    ward.away = "no engine"
    for name in ("far", "out"):
        with pytest.raises(SandboxError, match=f"runtime {name} cannot be used on this spot now: no engine") as caught:
            await ward.runtimes.connector(name)
        assert caught.value.reason == "no_spot"
    assert ward.stage.count("deploy far begins") == 0
    ward.away = None
    await ward.runtimes.connector("far")
    assert ward.status("far") == "deployed"


@run
async def test_a_definition_goes_before_the_spots_word_and_what_the_spot_gives_before_both(ward: Ward) -> None:
    ward.want("plain", "up", type="far")
    ward.want("own", "up", type="far", config={"image": "mine", "engine": "mine"})
    await ward.settled()
    configs = {made.config.name: made.config.config for made in ward.stage.made}
    assert configs["plain"] == {"image": "usual", "engine": "theirs"}
    assert configs["own"] == {"image": "mine", "engine": "theirs"}


@run
async def test_every_type_at_hand_is_told_to_forget_an_environment(ward: Ward) -> None:
    await ward.runtimes.connector("far")
    ward.stage.busy.add(OWN[1])
    assert not await ward.runtimes.forget("e"), "one still uses a part"
    ward.stage.busy.clear()
    assert [ward.stage.count(f"forget e in {name} ends") for name in OWN] == [1, 1, 1]
    ward.away = "no engine"
    assert await ward.runtimes.forget("f"), "nobody could say more now"
    assert [ward.stage.count(f"forget f in {name} ends") for name in OWN] == [1, 1, 0]


@run
async def test_none_comes_up_to_forget_and_any_one_of_its_type_can(ward: Ward) -> None:
    assert await ward.runtimes.forget("e")
    assert ward.stage.count("deploy far begins") == 0
    for name in ("mine", "yours"):
        ward.want(name, "up", type="far")
    await ward.settled()
    assert await ward.runtimes.forget("f")
    assert sum(ward.stage.count(f"forget f in {name} ends") for name in ("mine", "yours")) == 1
    assert ward.status("far") == "undeployed"


@run
async def test_one_that_cannot_forget_keeps_no_other_from_it_and_ends_nothing(ward: Ward) -> None:
    asked = []

    async def full(connector: FakeConnector, _: str) -> bool:
        asked.append(connector.config.name)
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeConnector, "forget", full)
        assert await ward.runtimes.forget("e"), "the next start of the spot sweeps it"
    assert asked == ["fake", "wrapper"]


@run
async def test_only_a_stack_that_holds_to_allow_lists_all_through_lists(ward: Ward) -> None:
    ward.want("loose", "known", type="far", lazy=True)
    ward.want("own", "known", type="fake", lazy=True, external=True)
    ward.want("on-loose", "known", wraps="loose", lazy=True)
    ward.want("on-own", "known", wraps="own", lazy=True)
    ward.want("on-fake", "known", wraps="fake", lazy=True)
    names = ("fake", "wrapper", "on-fake", "far", "loose", "on-loose", "own", "on-own", "unknown")
    assert [name for name in names if ward.runtimes.lists(name)] == ["fake", "wrapper", "on-fake"]


# ---------------------------------------------------------------- stacks


@run
async def test_a_stack_comes_up_and_goes_down_in_order(ward: Ward) -> None:
    ward.want("in", "known", lazy=True)
    ward.want("out", "up", wraps="in")
    await ward.settled()
    assert ward.stage.before("deploy in ends", "deploy out begins")
    ward.want("out", "down")
    ward.want("in", "down")
    await ward.settled()
    assert ward.stage.before("undeploy out ends", "undeploy in begins")
    assert (ward.status("in"), ward.status("out")) == ("undeployed", "undeployed")


@run
async def test_a_stack_defined_anew_while_the_spot_was_away_stands_under_the_new_definitions(ward: Ward) -> None:
    ward.want("in", "up", config={"n": "1"})
    ward.want("out", "up", wraps="in", config={"n": "1"})
    await ward.settled()
    for name, wraps in (("in", None), ("out", "in")):
        ward.revision += 1
        kind = "wrapper" if wraps else "fake"
        new = RuntimeDefinition(name=name, type=kind, wraps=wraps, lazy=False, config={"n": "2"})
        ward.wishes[name] = RuntimeWanted(definition=new, wanted="up", asked=ward.revision)
    ward.say()
    await ward.settled()
    assert (ward.status("in"), ward.status("out")) == ("deployed", "deployed")
    new_in, new_out = (made for made in ward.stage.made if made.config.config.get("n") == "2")
    assert {new_in.config.name, new_out.config.name} == {"in", "out"}
    outer = next(made for made in (new_in, new_out) if made.config.name == "out")
    assert outer.inner is not None
    assert outer.inner.config.config == {"n": "2"}


@run
async def test_a_stack_of_a_type_that_is_not_offered_here_is_left_to_other_spots(ward: Ward) -> None:
    ward.want("there", "up", type="docker")
    ward.want("out", "up", wraps="there")
    await ward.settled()
    assert ward.runtimes.names == OWN
    assert set(ward.runtimes.states()) == set(OWN)


@run
async def test_a_definition_that_cannot_be_fails_and_never_hangs(ward: Ward) -> None:
    for _ in range(2):
        ward.want("a", "up", type="wrapper", wraps="a")
        await ward.settled()
        assert ward.status("a") == "failed"
        assert "circular" in (ward.runtimes.states()["a"].error or "")


def test_close_takes_all_down_outermost_first(stage: Stage) -> None:
    async def test() -> None:
        ward = Ward(stage)
        await ward.runtimes.begin()
        ward.want("in", "up")
        ward.want("out", "up", wraps="in")
        await ward.settled()
        await ward.runtimes.close()

    asyncio.run(test())
    assert stage.before("undeploy out ends", "undeploy in begins")
    assert sorted(line for line in stage.log if line.startswith("undeploy") and line.endswith("ends")) == [
        f"undeploy {name} ends" for name in ("fake", "in", "out", "wrapper")
    ]
