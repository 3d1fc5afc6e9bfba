"""Health: whether everything is there that a run needs."""

from __future__ import annotations

from collections.abc import Callable

from faaspot_api.errors import Unavailable
from faaspot_api.queue.base import Queue
from faaspot_api.store import options
from faaspot_api.store.engine import Store
from faaspot_api.store.moments import now

OK = "ok"
WRITTEN = "recorder-wrote"
"""The option that the recorder writes to see that it can."""


class HealthService:
    """Looks at the parts of the platform."""

    def __init__(self, store: Store, queue: Queue) -> None:
        self._store = store
        self._queue = queue

    def ready(self) -> dict[str, str]:
        """Each part: "ok", or why it is not."""
        return {
            "database": _state(self._store.ping),
            "queue": _state(self._queue.ping),
            "recorder": _state(self._recorder),
            "spots": _state(self._spot_online),
        }

    def beat(self, problem: str = "") -> None:
        """The recorder lives: have the others know, and whether it can write. Raises Unavailable for the queue's part.

        `problem`: why it could not do its work lately.
        """
        self._queue.beat(problem or _state(self._write).removeprefix(OK))

    def _write(self) -> None:
        with self._store.write() as transaction:
            options.write(transaction, WRITTEN, now())

    def _recorder(self) -> None:
        said = self._queue.recorder()
        if said is None:
            raise Unavailable("The recorder is silent: no end is being recorded.")
        if said:
            raise Unavailable(f"The recorder cannot record: {said}")

    def _spot_online(self) -> None:
        if not any(seen.is_online for seen in self._queue.spots()):
            raise Unavailable("no spot is online", code="no_spot")


def _state(look: Callable[[], None]) -> str:
    try:
        look()
    except Unavailable as error:
        return error.message
    return OK
