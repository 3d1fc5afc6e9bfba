"""Where a wake-up goes: by ability, then by warm sandbox, then by load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from faaspot_api.errors import Unavailable
from faaspot_api.queue.base import SpotSeen
from faaspot_api.queue.placement import FRESH_SECONDS, Placement, choose
from faaspot_runner.contract import BuildRequest, Limits, RunRequest, SandboxSpec, SpotInfo

SPEC = SandboxSpec(
    version_id="v1", deployment="d", version=1, runtime="sandbox", python="3.12", code="c", limits=Limits()
)
RUN = RunRequest(execution_id="e", attempt=1, token="t", sandbox=SPEC)
BUILD = BuildRequest(
    execution_id="b", attempt=1, token="t", deployment="d", version=1, version_id="v", requirements="x", python="3.12"
)
ONE = SpotInfo(
    ip="10.0.0.1", created=0, last_seen=0, status="online", runtimes=("sandbox",), pythons={"3.12": "3.12.1"},
    networks=("none",), limits="cgroup", capacity=10,
)  # fmt: skip
TWO = replace(ONE, ip="10.0.0.2", networks=("none", "internet"), egress=True)


def line(request: RunRequest | BuildRequest, *infos: SpotInfo, queue: str = "background") -> str:
    return choose(request, queue, infos, Counter())[0].line


def needing(**limits: object) -> RunRequest:
    return replace(RUN, sandbox=replace(SPEC, limits=replace(SPEC.limits, **limits)))


def test_with_one_spot_or_none_nothing_is_placed() -> None:
    assert line(RUN) == line(RUN, ONE) == line(needing(network="internet"), ONE) == "background"


def test_who_comes_to_what_was_placed_before_it_joined_leaves_it_to_who_can_run_it() -> None:
    for infos, elsewhere in (([ONE], True), ([TWO], True), ([replace(ONE, pythons={})], False), ([], False)):
        placed, _ = choose(RUN, "sync", infos, Counter())
        assert (placed.line, placed.request) == ("sync", replace(RUN, elsewhere=elsewhere))


def test_nothing_waits_for_a_spot_that_has_no_workers_for_it() -> None:
    """Told to have none at most, it would never take from its own line."""
    manned = replace(ONE, workers={"sync": 1, "background": 1, "builds": 1})
    for workers in ({"builds": 1}, {}):
        unmanned = replace(TWO, capacity=0, workers=workers, warm=("v1",))
        assert line(RUN, manned, unmanned) == "background"
        assert line(needing(network="internet"), manned, unmanned) == "background@10.0.0.2"  # nobody else can
        able = replace(manned, ip="10.0.0.3", networks=("none", "internet"))
        assert line(needing(network="internet"), manned, unmanned, able) == "background@10.0.0.3"
    runs_only = replace(TWO, workers={"sync": 1, "background": 1}, pythons={"3.12": "3.12.1", "3.13": "3.13.1"})
    other = replace(manned, ip="10.0.0.3", pythons={"3.13": "3.13.1"})
    assert line(replace(BUILD, python="3.13"), manned, runs_only, other, queue="builds") == "builds@10.0.0.3"
    assert line(BUILD, manned, runs_only, queue="builds") == "builds"


def test_what_all_can_run_goes_where_all_take_from() -> None:
    placed, ip = choose(RUN, "sync", [ONE, TWO], Counter())
    assert (placed.line, ip) == ("sync", None)
    assert isinstance(placed.request, RunRequest)
    assert placed.request.elsewhere


@pytest.mark.parametrize(
    "request_",
    [
        needing(network="internet"),
        needing(egress=("example.org:443",)),
        replace(RUN, sandbox=replace(SPEC, python="3.13")),
        replace(RUN, sandbox=replace(SPEC, runtime="docker")),
        replace(BUILD, python="3.13"),
        replace(BUILD, runtime="docker"),
    ],
)
def test_what_not_all_can_run_goes_to_one_that_can(request_: RunRequest | BuildRequest) -> None:
    able = replace(TWO, pythons={"3.12": "3.12.1", "3.13": "3.13.1"}, runtimes=("sandbox", "docker"))
    assert line(request_, ONE, able, replace(able, ip="10.0.0.3", running=9)) == "background@10.0.0.2"


def test_what_nobody_can_run_goes_where_somebody_says_why() -> None:
    asked = replace(RUN, sandbox=replace(SPEC, runtime="docker"))
    placed, ip = choose(asked, "sync", [ONE, TWO], Counter())
    assert (placed.line, placed.request, ip) == ("sync", asked, None)


def test_a_warm_spot_is_preferred_as_long_as_it_has_room() -> None:
    warm = replace(TWO, warm=("v1",))
    assert line(RUN, ONE, warm) == "background@10.0.0.2"
    assert line(RUN, ONE, replace(warm, running=10)) == "background"
    assert line(RUN, replace(ONE, warm=("v1",)), warm) == "background"
    busy = replace(warm, ip="10.0.0.3", running=4)
    assert line(RUN, ONE, warm, busy) == "background@10.0.0.2"


def test_a_warm_spot_has_only_the_room_of_those_workers_that_take_from_the_queue() -> None:
    """Its other workers leave it half empty for ever, and all would wait for it beside a spot that is free."""
    workers = {"sync": 2, "background": 2, "builds": 1}
    free = replace(ONE, capacity=128, workers=workers)
    warm = replace(free, ip="10.0.0.2", warm=("v1",))
    assert line(RUN, free, replace(warm, running=63)) == "background@10.0.0.2"
    assert line(RUN, free, replace(warm, running=64)) == "background"


@pytest.mark.parametrize("request_", [RUN, BUILD])
def test_what_a_spot_has_lost_goes_to_another_one(request_: RunRequest | BuildRequest) -> None:
    lost = replace(request_, avoid=ONE.ip)
    third = replace(TWO, ip="10.0.0.3", running=5)
    assert line(lost, replace(ONE, warm=("v1",)), TWO, third) == "background@10.0.0.2"
    assert line(lost, TWO, third) == "background"  # it is not there
    assert line(lost, ONE) == "background"
    assert line(lost, ONE, replace(TWO, runtimes=())) == "background@10.0.0.1"  # nobody else can


def test_a_build_is_packed_while_a_spot_of_another_host_is_online() -> None:
    for infos, packed in (([ONE], False), ([ONE, replace(TWO, remote=True)], True)):
        placed, _ = choose(BUILD, "builds", infos, Counter())
        assert isinstance(placed.request, BuildRequest)
        assert placed.request.archive is packed


def test_a_burst_does_not_all_go_to_a_spot_that_was_free_a_moment_ago() -> None:
    """What was placed since the spots last told of themselves counts as running."""
    clock = [0.0]
    warm = replace(TWO, warm=("v1",))
    placement = Placement(lambda: [SpotSeen(info=ONE, age=0), SpotSeen(info=warm, age=0)], lambda: clock[0])
    lines = Counter(placement.place(RUN, "background").line for _ in range(30))
    assert lines == {"background@10.0.0.2": 10, "background": 20}
    clock[0] += FRESH_SECONDS
    assert placement.place(RUN, "background").line == "background@10.0.0.2"


def test_who_drains_or_is_silent_gets_nothing_and_a_server_that_is_away_is_asked_once() -> None:
    seen: list[Sequence[SpotSeen] | None] = [
        [SpotSeen(info=ONE, age=0), SpotSeen(info=replace(TWO, warm=("v1",), status="draining"), age=0)],
        [SpotSeen(info=ONE, age=0), SpotSeen(info=replace(TWO, warm=("v1",)), age=60)],
        [SpotSeen(info=ONE, age=0), SpotSeen(info=replace(TWO, warm=("v1",)), age=0)],
        None,
    ]
    clock = [0.0]

    def look() -> Sequence[SpotSeen]:
        told = seen.pop(0)
        if told is None:
            raise Unavailable("away")
        return told

    placement = Placement(look, lambda: clock[0])
    lines = []
    for _ in range(3):
        lines.append(placement.place(RUN, "sync").line)
        clock[0] += FRESH_SECONDS
    assert lines == ["sync", "sync", "sync@10.0.0.2"]
    with pytest.raises(Unavailable):  # whoever waited for that does not wait for the line as well
        placement.place(RUN, "sync")
    assert placement.place(RUN, "sync").line == "sync@10.0.0.2", "others go by what was seen last"
