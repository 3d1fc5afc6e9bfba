"""Tells those who are to be told of an end, until they have heard or have failed too often.

Everything is in the store: what was claimed by a courier that was killed is due again after a while, so somebody may
be told twice (by the same ``webhook-id``), and never not at all.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version

import structlog

from faaspot_api import outgoing
from faaspot_api.domain import callbacks as rules
from faaspot_api.domain import records
from faaspot_api.domain.model import Execution
from faaspot_api.errors import Unavailable
from faaspot_api.outgoing import Walls
from faaspot_api.services.callbacks import CallbackSecrets
from faaspot_api.services.policy import Policy
from faaspot_api.store import callbacks, executions
from faaspot_api.store.callbacks import Callback, State, Try
from faaspot_api.store.engine import Store
from faaspot_api.store.moments import SECOND, now
from faaspot_runner.contract.failpoints import reach

MOST = 16
"""How many are told at the same time."""
MOST_OF_HOST = 4
"""And of one host, so that one that does not answer does not keep the others waiting."""
MOST_OF_OWNER = 12
"""And of one token: it may name as many hosts as it likes."""
RIPE = 500
MAX_OUTPUT = 256 * 1024
"""Bytes of an output that are sent along; a longer one is to be fetched with the record."""
CLAIM_SECONDS = 10.0
"""So long after the end of its try a claimed one is due again: whoever had it is dead."""
MAX_ERROR = 300
DEFECT = "could not be told: a defect of the platform, its log says more"

_log = structlog.get_logger(__name__)
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)

Post = Callable[[str, bytes, dict[str, str], Walls, float], int]


class Courier:
    """One for the platform, beside the recorder; a second one does no harm."""

    def __init__(self, store: Store, secrets: CallbackSecrets, policy: Policy, post: Post = outgoing.post) -> None:
        self._store = store
        self._secrets = secrets
        self._seconds = policy.callback_seconds
        self._walls = Walls(allowed=policy.callback_networks, closed=policy.closed_hosts)
        self._post = post
        self._lock = threading.Lock()
        self._hosts: Counter[str] = Counter()
        self._owners: Counter[str] = Counter()

    def round(self) -> bool:
        """Begin to tell all that are due and there is room for; True if there may be more at once.

        Raises Unavailable if the database is away; the next round goes on.
        """
        at = now()
        with self._store.read() as transaction:
            if not callbacks.waits(transaction):
                return False
        with self._store.write() as transaction:
            ripe = callbacks.ripen(transaction, at, RIPE)
        began = [row for row in self._due(at) if self._claim(row)]
        for row in began:
            threading.Thread(target=self._tell, args=[row], name="callback", daemon=True).start()
        return ripe == RIPE or bool(began)

    @property
    def telling(self) -> int:
        """How many are being told."""
        with self._lock:
            return self._hosts.total()

    def _due(self, at: int) -> list[Callback]:
        with self._lock:
            room = MOST - self._hosts.total()
            hosts = [host for host, count in self._hosts.items() if count >= MOST_OF_HOST]
            owners = [owner for owner, count in self._owners.items() if count >= MOST_OF_OWNER]
        if room <= 0:
            return []
        with self._store.read() as transaction:
            return callbacks.due(transaction, at, hosts, owners, room)

    def _claim(self, row: Callback) -> bool:
        with self._lock:
            if self._hosts[row.host] >= MOST_OF_HOST or self._owners[row.owner] >= MOST_OF_OWNER:
                return False
            self._hosts[row.host] += 1
            self._owners[row.owner] += 1
        claimed = False
        try:
            with self._store.write() as transaction:
                claimed = callbacks.claim(transaction, row, now() + int((self._seconds + CLAIM_SECONDS) * SECOND))
        finally:
            if not claimed:
                self._leave(row)
        return claimed

    def _leave(self, row: Callback) -> None:
        with self._lock:
            for counter, name in ((self._hosts, row.host), (self._owners, row.owner)):
                counter[name] -= 1
                if not counter[name]:
                    del counter[name]

    def _tell(self, row: Callback) -> None:
        """One try, in a thread of its own."""
        try:
            told = self._try(row)
            reach("after_told")
            self._settle(row, told)
        except Unavailable as error:
            _log.warning("a callback is told again", execution=row.execution, reason=error.message)
        except Exception:  # noqa: BLE001 (the thread's outer frame: it logs, and the claim runs out)
            _log.exception("a callback waits: a defect", execution=row.execution)
        finally:
            self._leave(row)

    def _try(self, row: Callback) -> Try:
        with self._store.read() as transaction:
            execution = executions.get(transaction, row.execution)
        at, began = now(), time.monotonic()
        status, error = None, None
        try:
            status = self._sent(row, execution, at // SECOND)
        except OSError as failure:
            error = str(failure)[:MAX_ERROR]
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001 (it counts as a try: what fails for good must be given up one day)
            _log.exception("a callback could not be made: a defect", execution=row.execution)
            error = DEFECT
        if status is not None and not 200 <= status < 300:
            error = f"answered {status}" + (", and redirects are not followed" if 300 <= status < 400 else "")
        ms = int((time.monotonic() - began) * 1000)
        return Try(execution=row.execution, at=at, status=status, error=error, ms=ms)

    def _sent(self, row: Callback, execution: Execution | None, timestamp: int) -> int:
        """The status of the answer. Raises OSError, Unavailable."""
        if execution is None:
            raise LookupError(f"the execution {row.execution} of a callback is not there")
        body = message(execution)
        return self._post(row.url, body, self._headers(row, timestamp, body), self._walls, self._seconds)

    def _headers(self, row: Callback, timestamp: int, body: bytes) -> dict[str, str]:
        secret = self._secrets.of(row.owner)
        return {
            "Content-Type": "application/json",
            "User-Agent": f"faaspot/{version('faaspot')}",
            "webhook-id": row.execution,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": rules.signature(secret, row.execution, timestamp, body),
        }

    def _settle(self, row: Callback, told: Try) -> None:
        pause = rules.pause(row.tries + 1)
        status: State = "delivered" if told.error is None else "pending" if pause is not None else "failed"
        due = now() + int((pause or 0.0) * SECOND) if status == "pending" else None
        with self._store.write() as transaction:
            callbacks.settle(transaction, row, told, status, due)


def message(execution: Execution) -> bytes:
    """What is told: the record without its args; of an output that is too long only that there is one.

    The output is set in as it is: it may be nested deeper than could be decoded here.
    """
    record = json.loads(records.text(replace(execution, args=None, output=None)))
    del record["args"], record["output"]
    record["output_omitted"] = len(execution.output or "") > MAX_OUTPUT
    output = "null" if record["output_omitted"] else execution.output or "null"
    data = f'{_ENCODER.encode(record)[:-1]},"output":{output}}}'
    return f'{{"type":"execution.ended","timestamp":{_ENCODER.encode(record["ended"])},"data":{data}}}'.encode()


def run(courier: Courier, stop: threading.Event, seconds: float) -> None:
    """Make rounds until `stop` is set, with pauses of at least `seconds` where there is nothing to do."""
    while True:
        began, more = time.monotonic(), False
        try:
            more = courier.round()
        except Unavailable as error:
            _log.warning("callbacks wait", reason=error.message)
        except Exception:  # noqa: BLE001 (the thread's outer loop: it logs and goes on)
            _log.exception("callbacks wait: a defect")
        # A round that took long, since very many wait for their end, is not made too often.
        pause = 0.05 if more else max(seconds, 10 * (time.monotonic() - began))
        if stop.wait(pause):
            return
