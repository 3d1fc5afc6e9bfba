"""Work of many threads done at once: whoever comes first does what has gathered, the others get their part of it.

A transaction costs the same for one record and for thirty, and there is one writer at a time. Under load the calls that
wait for their turn go into the next transaction together; a single call has one of its own, at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, TypeVar

from faaspot_api.errors import Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Place(Generic[Item, Result]):
    """One thread's item on its way. `turn` is held until it is done, or its thread is the next to do all of them."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.turn = Lock()
        self.turn.acquire()
        self.done = False
        self.result: Result | BaseException

    def settle(self, result: Result | BaseException) -> None:
        self.result, self.done = result, True


class Together(Generic[Item, Result]):
    """`work` does many items at once: all of them or, if it raises, none. Its results come in the items' order."""

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result | BaseException]]) -> None:
        self._work = work
        self._lock = Lock()
        self._gathered: list[_Place[Item, Result]] = []
        self._working = False

    def do(self, item: Item) -> Result:
        """The result of this item, or the exception that is its result."""
        place = _Place[Item, Result](item)
        with self._lock:
            self._gathered.append(place)
            first, self._working = not self._working, True
        if not first:
            place.turn.acquire()
        if not place.done:
            self._take_turn()
        if isinstance(place.result, BaseException):
            raise place.result
        return place.result

    def _take_turn(self) -> None:
        """Do all that has gathered, then leave the turn to the first of those who came meanwhile."""
        with self._lock:
            batch, self._gathered = self._gathered, []
        try:
            self._do(batch)
        finally:
            with self._lock:
                following = self._gathered[0] if self._gathered else None
                self._working = following is not None
            for place in batch:
                place.turn.release()
            if following is not None:
                following.turn.release()

    def _do(self, batch: Sequence[_Place[Item, Result]]) -> None:
        try:
            results = self._work([place.item for place in batch])
        except Unavailable as error:
            results = [error] * len(batch)
        except BaseException as error:  # noqa: BLE001 (each thread raises its own, whatever it is)
            if len(batch) > 1:  # one of them spoils it for the others: each alone
                for place in batch:
                    self._do([place])
                return
            results = [error]
        for place, result in zip(batch, results, strict=True):
            place.settle(result)
