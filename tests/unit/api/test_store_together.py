"""Work of many threads done at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from faaspot_api.errors import Unavailable
from faaspot_api.store.together import Together


class Desk:
    """Work that waits to be let go, and remembers what it was given at once."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.fails: Callable[[Sequence[int]], Exception | None] = lambda _: None
        self.together: Together[int, int] = Together(self.work)
        self.results: dict[int, object] = {}
        self.threads: list[threading.Thread] = []

    def work(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.began.set()
        assert self.go_on.wait(10)
        if (error := self.fails(items)) is not None:
            raise error
        return [item * 10 for item in items]

    def do(self, item: int) -> None:
        try:
            self.results[item] = self.together.do(item)
        except Exception as error:  # noqa: BLE001 (what it raised is what the test looks at)
            self.results[item] = error

    def start(self, item: int) -> None:
        thread = threading.Thread(target=self.do, args=(item,))
        self.threads.append(thread)
        thread.start()

    def gather(self, *items: int) -> None:
        """The first is at work while the others come; returns when all are done."""
        self.start(items[0])
        assert self.began.wait(10)
        for count, item in enumerate(items[1:], start=1):
            self.start(item)
            while len(self.together._gathered) < count:
                assert self.threads[-1].is_alive()
        self.go_on.set()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


def test_one_alone_is_done_at_once() -> None:
    desk = Desk()
    desk.go_on.set()
    desk.do(1)
    desk.do(2)
    assert (desk.batches, desk.results) == ([[1], [2]], {1: 10, 2: 20})


def test_those_who_come_meanwhile_are_done_together_each_with_its_own_result() -> None:
    desk = Desk()
    desk.gather(1, 2, 3, 4)
    assert [sorted(batch) for batch in desk.batches] == [[1], [2, 3, 4]]
    assert desk.results == {1: 10, 2: 20, 3: 30, 4: 40}
    desk.do(5)
    assert desk.results[5] == 50


def test_one_that_raises_is_the_only_one_that_fails() -> None:
    desk = Desk()
    desk.fails = lambda items: ValueError("3") if 3 in items else None
    desk.gather(1, 2, 3, 4)
    assert [item for item, result in desk.results.items() if isinstance(result, ValueError)] == [3]
    assert (desk.results[2], desk.results[4]) == (20, 40)


def test_a_database_that_is_away_is_told_to_all_and_asked_once() -> None:
    desk = Desk()
    desk.fails = lambda items: Unavailable("away") if len(items) > 1 else None
    desk.gather(1, 2, 3)
    assert len(desk.batches) == 2
    assert all(isinstance(desk.results[item], Unavailable) for item in (2, 3))


def test_after_an_interrupt_the_next_one_goes_on() -> None:
    desk = Desk()
    desk.go_on.set()
    desk.fails = lambda items: KeyboardInterrupt()  # type: ignore[assignment,return-value]
    with pytest.raises(KeyboardInterrupt):
        desk.together.do(1)
    desk.fails = lambda _: None
    assert desk.together.do(2) == 20
