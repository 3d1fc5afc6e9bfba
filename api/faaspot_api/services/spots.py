"""Spots: seen through what they tell of themselves, changed through the supervisor."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Literal

from faaspot_api.domain.model import Principal, Spot
from faaspot_api.domain.names import new_execution_id
from faaspot_api.errors import FieldError, Forbidden, Invalid, NotFound
from faaspot_api.queue.base import Queue, SpotSeen
from faaspot_api.services import access, wakeups
from faaspot_api.services.recorder import new_token
from faaspot_api.services.wakeups import SUPERVISOR_QUEUE, Bell, Task
from faaspot_api.store import executions
from faaspot_api.store.engine import Store
from faaspot_api.store.executions import NewExecution
from faaspot_api.store.moments import now
from faaspot_runner.contract import SPOT_OFFLINE_SECONDS

SpotAction = Literal["add", "remove", "replace", "refresh"]
NAMES: dict[SpotAction, str] = {
    "add": "spots.add",
    "remove": "spots.remove",
    "replace": "spots.replace",
    "refresh": "spots.refresh_ip",
}
"""The `name` of the record of each."""
WORKERS_FIXED = (
    "Nothing was changed: every spot has the number of workers that the platform was started with "
    "(fas up --workers N). Add or remove spots instead."
)
MAX_WORKERS = 1000


def is_online(seen: SpotSeen) -> bool:
    """Whether the spot takes work: it was heard of lately, and does not drain."""
    return seen.age <= SPOT_OFFLINE_SECONDS and seen.info.status == "online"


class SpotService:
    """What people do with spots."""

    def __init__(self, store: Store, queue: Queue) -> None:
        self._store = store
        self._queue = queue
        self._bell = Bell(queue)

    def list(self, who: Principal) -> tuple[Spot, ...]:
        """The spots that this token may use. Raises Unavailable if the queue is away."""
        if who.role not in ("admin", "deployer"):
            raise Forbidden(f"A token of role {who.role} may not see spots.")
        allowed = who.spots if who.role != "admin" else ()
        return tuple(_spot(seen) for seen in self._queue.spots() if not allowed or seen.info.ip in allowed)

    def get(self, who: Principal, ip: str) -> Spot:
        """One spot by its address."""
        for spot in self.list(who):
            if spot.ip == ip:
                return spot
        raise _unknown(ip)

    def add(self, who: Principal) -> str:
        """Ask for one more local spot; the execution's id."""
        access.require_admin(who)
        return self._ask(who, "add", None)

    def remove(self, who: Principal, ip: str | None) -> str:
        """Ask for the end of a spot, of any one with None; the execution's id."""
        access.require_admin(who)
        if ip is not None:
            self.get(who, ip)
        elif not self.list(who):
            raise NotFound("There is no spot to remove.")
        return self._ask(who, "remove", ip)

    def replace(self, who: Principal, ip: str) -> str:
        """Ask for a new spot in place of this one; the execution's id."""
        access.require_admin(who)
        self.get(who, ip)
        return self._ask(who, "replace", ip)

    def refresh(self, who: Principal, ip: str) -> str:
        """Ask that a spot's address ("all": every one's) be looked at again; the execution's id."""
        access.require_admin(who)
        if ip != "all":
            self.get(who, ip)
        return self._ask(who, "refresh", None if ip == "all" else ip)

    def update(self, who: Principal, least: int | None, most: int | None) -> dict[str, Any]:
        """Check what the published clients ask for and repeat it, with `applied` false: nothing changes.

        A spot has as many workers as the platform was started with. Raises Invalid.
        """
        access.require_admin(who)
        said = {"min_workers": least, "max_workers": most}
        _check_workers(said)
        return {**said, "applied": False, "message": WORKERS_FIXED}

    def _ask(self, who: Principal, action: SpotAction, ip: str | None) -> str:
        row = NewExecution(
            uuid=new_execution_id(),
            kind="spot",
            name=NAMES[action],
            owner=who.name,
            queue=SUPERVISOR_QUEUE,
            token=new_token(),
            created=now(),
            args=json.dumps({"action": action, "ip": ip}),
        )
        with self._store.write() as transaction:
            executions.add(transaction, [row])
        task = Task(
            uuid=row.uuid,
            attempt=row.attempt,
            token=row.token,
            queue=row.queue,
            created=row.created,
            expires=None,
            args=row.args,
        )
        self._bell.wake([wakeups.spot(task)])
        return row.uuid


def _check_workers(said: dict[str, int | None]) -> None:
    for name, value in said.items():
        if value is not None and not 0 <= value <= MAX_WORKERS:
            raise Invalid.fields(FieldError(field=name, message=f"must be from 0 to {MAX_WORKERS}"))
    least, most = said["min_workers"], said["max_workers"]
    if least is not None and most is not None and least > most:
        raise Invalid.fields(FieldError(field="min_workers", message="must not be above max_workers"))


def _unknown(ip: str) -> NotFound:
    return NotFound(f"There is no spot with the address {ip[:100]}.")


def _spot(seen: SpotSeen) -> Spot:
    info = seen.info
    return Spot(
        ip=info.ip,
        created=datetime.fromtimestamp(info.created, UTC),
        last_seen=datetime.fromtimestamp(info.last_seen, UTC),
        status=info.status if seen.age <= SPOT_OFFLINE_SECONDS else "offline",
        runtimes=info.runtimes,
        pythons=info.pythons,
        networks=info.networks,
        limits=info.limits,
        workers=info.workers,
        running=info.running,
        sandboxes=info.sandboxes,
        problems=info.problems,
    )
