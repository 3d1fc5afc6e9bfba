"""The runs of one `map`: asked for in batches, a bounded number under way, their results in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any
from uuid import uuid4

from faaspot import _calls
from faaspot import _executions as executions
from faaspot._calls import Conversation
from faaspot.errors import Overloaded, TooLarge, Unavailable
from faaspot.types import Execution

LOOK_AHEAD = 256
"""Runs under way at once."""
BATCH = 500
"""Runs of one request."""
QUICK_SECONDS = 0.02
"""Items that come faster than this together go together; slower ones go one by one, at once."""


class Flow:
    """What `map` does but for the I/O and the loop.

    The loop hands it an item (`take`) while it is not `full`, and asks for results (`result`) while it is, and at the
    end. When half of the runs under way are through it takes items again, so that both ways go in batches.
    """

    def __init__(
        self,
        path: str,
        look_ahead: int,
        return_exceptions: bool,
        return_records: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._most = max(1, look_ahead)
        self._return_exceptions = return_exceptions
        self._return_records = return_records
        self._clock = clock
        self._batch: list[dict[str, Any]] = []
        self._size = 1
        self._begun = 0.0
        self._count = 0
        self._ahead: deque[str] = deque()
        self._known: dict[str, Execution] = {}
        self._full = False

    @property
    def full(self) -> bool:
        """Whether results have to be taken before another item."""
        if len(self._ahead) >= self._most:
            self._full = True
        elif len(self._ahead) <= self._most // 2:
            self._full = False
        return self._full

    @property
    def under_way(self) -> bool:
        """Whether there are results still to come."""
        return bool(self._ahead or self._batch)

    def take(self, args: Any) -> Conversation[None]:
        """Take an item in; run it, with those before it, when they are a batch."""
        if not self._batch:
            self._begun = self._clock()
        self._batch.append(_calls.mapping(args, f"item {self._count}"))
        self._count += 1
        if len(self._batch) >= min(self._size, self._most - len(self._ahead)):
            quick = self._clock() - self._begun < QUICK_SECONDS
            self._size = min(2 * self._size, BATCH) if quick else 1
            yield from self.send()

    def result(self) -> Conversation[Any]:
        """The next result, waited for. Raises the `RunError` of a failed run, unless records or errors are wanted."""
        if not self._ahead:
            yield from self.send()
        head = self._ahead[0]
        while head not in self._known:
            wanted = [uuid for uuid in islice(self._ahead, executions.BULK) if uuid not in self._known]
            for record in (yield from executions.awaited(wanted)):
                if record.has_ended:
                    self._known[record.uuid] = record
        self._ahead.popleft()
        record = yield from executions.whole(self._known.pop(head))
        return record if self._return_records else executions.outcome(record, self._return_exceptions)

    def send(self) -> Conversation[None]:
        """Run what is not sent yet. A platform without room gets it when some of what is under way is through."""
        batch, self._batch = self._batch, []
        if not batch:
            return
        try:
            self._ahead += yield from accepted(self._path, batch)
        except (Overloaded, Unavailable):
            if not self._ahead:
                raise
            self._batch = batch


def accepted(path: str, batch: list[dict[str, Any]]) -> Conversation[list[str]]:
    """The ids of runs; in halves where they are too large for one request. Asked twice they are the same runs."""
    headers: Mapping[str, str] = {"Idempotency-Key": uuid4().hex}
    request = _calls.send("POST", path, batch, headers=headers, safe=True)
    try:
        return [str(uuid) for uuid in (yield from _calls.ask(request))]
    except TooLarge:
        if len(batch) == 1:  # alone they may be much larger
            alone = path.replace("/bulk_rpc/", "/rpc/")
            request = _calls.send("POST", alone, batch[0], headers=headers, safe=True)
            return [_calls.uuid_of((yield from _calls.ask(request)))]
    half = len(batch) // 2
    first = yield from accepted(path, batch[:half])
    return first + (yield from accepted(path, batch[half:]))
