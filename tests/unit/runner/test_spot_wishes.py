"""How many workers follow from what was wished and from the queues; what the two fields of a wish mean together."""

from __future__ import annotations

import pytest

from faaspot_runner.contract.spots import Wish
from faaspot_runner.spot.wishes import IDLE_SECONDS, Scale


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_wish_it_stays_as_it_was_started() -> None:
    scale = Scale({"sync": 2}, 32, Clock())
    assert [scale.of("sync", 2, Wish(), waiting, 64) for waiting in (100, 100, 0)] == [2, 2, 2]


def test_one_more_while_something_waits_up_to_the_most() -> None:
    scale, now = Scale({"sync": 2}, 32, Clock()), 2
    seen = [now := scale.of("sync", now, Wish(least=1, most=4), 50, 64) for _ in range(5)]
    assert seen == [2, 3, 4, 4, 4]  # at the first look it may be on its way to a worker


def test_from_none_it_begins_at_once() -> None:
    assert Scale({"sync": 0}, 32, Clock()).of("sync", 0, Wish(least=0, most=2), 1, 0) == 1


def test_one_less_after_a_while_without_need_down_to_the_least() -> None:
    clock = Clock()
    scale, now, seen = Scale({"sync": 2}, 32, clock), 4, []
    for _ in range(4):
        seen.append(now := scale.of("sync", now, Wish(least=2, most=4), 0, 0))
        clock.now += IDLE_SECONDS
    assert seen == [4, 3, 2, 2]


def test_nobody_goes_while_the_others_could_not_do_its_part() -> None:
    clock = Clock()
    scale = Scale({"sync": 2}, 32, clock)
    for _ in range(5):
        assert scale.of("sync", 2, Wish(least=1, most=4), 0, 30) == 2
        clock.now += IDLE_SECONDS


def test_a_new_wish_counts_at_once() -> None:
    scale = Scale({"sync": 2}, 32, Clock())
    assert scale.of("sync", 2, Wish(least=5, most=None), 0, 0) == 5
    assert scale.of("sync", 9, Wish(least=None, most=3), 0, 0) == 3
    assert scale.of("sync", 2, Wish(least=0, most=0), 10, 10) == 0
    assert scale.of("sync", 2, Wish(most=0), 10, 10) == 0


def test_own_numbers_count_over_those_of_every_spot() -> None:
    every = Wish(least=1, most=8).text()
    assert Wish.of(None, every) == Wish(least=1, most=8)
    assert Wish.of(Wish(draining=True).text(), every) == Wish(draining=True, least=1, most=8)
    assert Wish.of(Wish(most=2).text(), every.encode()) == Wish(most=2)
    assert Wish.of(None, None) == Wish()
    with pytest.raises(ValueError, match="object"):
        Wish.of("[1]", None)
    with pytest.raises(ValueError, match="malformed"):
        Wish.of('{"other": 1}', None)
