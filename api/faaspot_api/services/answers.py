"""When waiting callers were given their answers: put into the records a moment later, many at once.

Only a measurement: the answers of the last moments before a process is killed are not in the records.
"""

from __future__ import annotations

import threading

import structlog

from faaspot_api.domain.model import Execution
from faaspot_api.errors import Unavailable
from faaspot_api.store import executions
from faaspot_api.store.engine import Store
from faaspot_api.store.moments import now, to_micros

GATHER_SECONDS = 0.5
MOST = 10_000
"""Answers that are kept while the database is away; more are not measured."""
PART = 500
"""Records that one transaction writes: SQLite lets nobody else write meanwhile."""
_log = structlog.get_logger(__name__)


class Answers:
    """Notes answers from any thread, and writes them from one of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._noted: list[Execution] = []
        self._writing = False

    def note(self, execution: Execution) -> None:
        """Its caller is being answered now. A record that has no marks gets none."""
        marks = execution.timings.get("marks")
        if not marks:
            return
        marks["answered"] = (now() - to_micros(execution.created)) / 1000
        with self._lock:
            if len(self._noted) < MOST:
                self._noted.append(execution)
            first, self._writing = not self._writing, True
        if first:
            timer = threading.Timer(GATHER_SECONDS, self._write)
            timer.daemon = True
            timer.start()

    def _write(self) -> None:
        with self._lock:
            noted, self._noted, self._writing = self._noted, [], False
        try:
            for start in range(0, len(noted), PART):
                timings = {execution.uuid: execution.timings for execution in noted[start : start + PART]}
                with self._store.write() as transaction:
                    executions.mark_timed(transaction, timings)
        except Unavailable as error:
            _log.warning("answers_not_noted", count=len(noted), why=error.message)
