"""The runs of one `map`: asked for in batches, a bounded number under way, their results in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Items that one request asks for, however often it is sent: under its key they run once."""

    items: list[dict[str, Any]]
    key: str = field(default_factory=lambda: uuid4().hex)

    @property
    def halves(self) -> tuple[Part, Part]:
        """The same in two requests."""
        half = len(self.items) // 2
        return Part(items=self.items[:half]), Part(items=self.items[half:])


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
        self._parts: deque[Part] = deque()
        """Asked for, and not accepted yet."""
        self._until: int | None = None
        """While it is full: how many runs may be under way when it is no more."""

    @property
    def full(self) -> bool:
        """Whether results have to be taken before another item."""
        if self._until is None and len(self._ahead) >= self._most:
            self._until = self._most // 2
        if self._until is not None and len(self._ahead) <= self._until:
            self._until = None
        return self._until is not None

    @property
    def under_way(self) -> bool:
        """Whether there are results still to come."""
        return bool(self._ahead or self._parts or self._batch)

    def take(self, args: Any) -> Conversation[None]:
        """Take an item in; run it, with those before it, when they are a batch."""
        if not self._batch:
            self._begun = self._clock()
        self._batch.append(_calls.mapping(args, f"item {self._count}"))
        self._count += 1
        room = self._most - len(self._ahead) - sum(len(part.items) for part in self._parts)
        if len(self._batch) >= min(self._size, room):
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
        """Run what is not sent yet. A platform without room gets it when half of what is under way is through."""
        if self._batch:
            self._parts.append(Part(items=self._batch))
            self._batch = []
        while self._parts:
            part = self._parts[0]
            try:
                uuids = yield from accepted(self._path, part)
            except TooLarge:
                if len(part.items) == 1:
                    raise
                self._parts.popleft()
                self._parts.extendleft(reversed(part.halves))
                continue
            except (Overloaded, Unavailable):
                if not self._ahead:
                    raise
                self._until = len(self._ahead) // 2
                return
            self._parts.popleft()
            self._ahead += uuids


def accepted(path: str, part: Part) -> Conversation[list[str]]:
    """The ids of the runs of a part. Raises TooLarge where one request cannot bring them."""
    headers = {"Idempotency-Key": part.key}
    request = _calls.send("POST", path, part.items, headers=headers, safe=True)
    try:
        return [str(uuid) for uuid in (yield from _calls.ask(request))]
    except TooLarge:
        if len(part.items) > 1:
            raise
    # Alone they may be much larger.
    alone = path.replace("/bulk_rpc/", "/rpc/")
    request = _calls.send("POST", alone, part.items[0], headers=headers, safe=True)
    return [_calls.uuid_of((yield from _calls.ask(request)))]
