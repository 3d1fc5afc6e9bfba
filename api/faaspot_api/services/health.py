"""Health: whether everything is there that a run needs."""

from __future__ import annotations

from collections.abc import Callable

from faaspot_api.errors import Unavailable
from faaspot_api.queue.base import Queue
from faaspot_api.services.spots import is_online
from faaspot_api.store.engine import Store

OK = "ok"


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
            "spots": _state(self._spot_online),
        }

    def _spot_online(self) -> None:
        if not any(is_online(seen) for seen in self._queue.spots()):
            raise Unavailable("no spot is online", code="no_spot")


def _state(look: Callable[[], None]) -> str:
    try:
        look()
    except Unavailable as error:
        return error.message
    return OK
