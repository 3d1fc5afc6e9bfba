"""A few short runs at once, whoever sends how many; what has gone on for a while holds nobody up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from faaspot_runner.pace import SHORT_SECONDS, Pace
from tests.platforms import eventually


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Runner:
    """Runs in threads, each inside until it is told to end."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.inside: list[str] = []
        self._ends: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def start(self, run: str) -> None:
        """`run`: its deployment, a dash, a number."""
        self._ends[run] = threading.Event()
        thread = threading.Thread(target=self._drive, args=(run,), daemon=True)
        self._threads.append(thread)
        thread.start()
        eventually(lambda: run in self.inside or self.waits(run), 5, "it came")

    def waits(self, run: str) -> bool:
        return run not in self.inside and len(self.inside) + len(self.pace._waiting) == len(self._ends)

    def end(self, run: str) -> None:
        self._ends[run].set()
        eventually(lambda: run not in self.inside, 5, "it went")
        del self._ends[run]

    def close(self) -> None:
        for event in self._ends.values():
            event.set()
        for thread in self._threads:
            thread.join()

    def _drive(self, run: str) -> None:
        with self.pace.step(run.partition("-")[0]):
            self.inside.append(run)
            self._ends[run].wait()
            self.inside.remove(run)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def runner(clock: Clock) -> Iterator[Runner]:
    with ExitStack() as stack:
        runner = Runner(Pace(2, clock))
        stack.callback(runner.close)
        yield runner


def test_of_many_only_some_begin_and_each_end_lets_the_next_begin(runner: Runner) -> None:
    for number in range(4):
        runner.start(f"many-{number}")
    assert runner.inside == ["many-0", "many-1"]
    runner.end("many-1")
    eventually(lambda: runner.inside == ["many-0", "many-2"], 5, "the next one")


def test_one_of_another_begins_at_once_and_its_second_before_the_rest_of_the_many(runner: Runner) -> None:
    for number in range(4):
        runner.start(f"many-{number}")
    runner.start("other-0")
    assert runner.inside == ["many-0", "many-1", "other-0"]
    runner.start("other-1")
    runner.end("many-0")
    assert len(runner.inside) == 2
    runner.end("many-1")
    eventually(lambda: runner.inside == ["other-0", "many-2"], 5, "of the many none was inside")
    runner.end("many-2")
    eventually(lambda: runner.inside == ["other-0", "many-3"], 5, "nor now")
    runner.end("many-3")
    eventually(lambda: runner.inside == ["other-0", "other-1"], 5, "then the second")


def test_what_goes_on_for_a_while_counts_no_more(runner: Runner, clock: Clock) -> None:
    for number in range(4):
        runner.start(f"many-{number}")
    clock.now += 2 * SHORT_SECONDS
    eventually(lambda: len(runner.inside) == 4, 5, "all are inside")
    runner.start("many-4")
    runner.end("many-0")
    assert "many-4" not in runner.inside, "the end of one that counted no more makes no room"
    runner.end("many-2")
    eventually(lambda: "many-4" in runner.inside, 5, "that of one that counted does")


def test_a_run_that_fails_makes_room(clock: Clock) -> None:
    pace = Pace(1, clock)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), pace.step("many"):
            raise ZeroDivisionError
