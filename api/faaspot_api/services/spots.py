"""Spots: seen through what they tell of themselves, changed through the supervisor and by what they are told to be."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from faaspot_api.domain.model import Principal, Spot
from faaspot_api.domain.names import new_execution_id
from faaspot_api.errors import Conflict, FieldError, Forbidden, Invalid, NotFound
from faaspot_api.queue.base import Queue, SpotSeen
from faaspot_api.services import access, wakeups
from faaspot_api.services.recorder import new_token
from faaspot_api.services.wakeups import SUPERVISOR_QUEUE, Bell, Task
from faaspot_api.store import executions, spots, tokens
from faaspot_api.store.engine import Store
from faaspot_api.store.executions import NewExecution
from faaspot_api.store.moments import SECOND, now
from faaspot_api.store.spots import SpotRow
from faaspot_runner.contract import SPOT_OFFLINE_SECONDS
from faaspot_runner.contract.spots import EVERY, spot_user

SpotAction = Literal["add", "remove", "replace", "refresh", "admit", "dismiss"]
NAMES: dict[SpotAction, str] = {
    "add": "spots.add",
    "remove": "spots.remove",
    "replace": "spots.replace",
    "refresh": "spots.refresh_ip",
    "admit": "spots.join",
    "dismiss": "spots.remove",
}
"""The `name` of the record of each."""
MAX_WORKERS = 64
"""Worker processes of a spot for sync runs, and as many for background runs."""


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
        with self._store.read() as transaction:
            wanted = {row.ip: row for row in spots.every(transaction)}
        common = wanted.get(EVERY, SpotRow(ip=EVERY))
        seen = [each for each in self._queue.spots() if not allowed or each.info.ip in allowed]
        return tuple(_spot(each, wanted.get(each.info.ip), common) for each in seen)

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
        """Ask for the end of a spot, of any local one with None; the execution's id.

        One on another host gets nothing more from here on: its token ends at once, its user of Redis when it has
        drained.
        """
        access.require_admin(who)
        if ip is None:
            if all(spot.remote for spot in self.list(who)):
                raise NotFound("There is no spot on this machine to remove; say which one: fas spots remove --ip IP.")
            return self._ask(who, "remove", None)
        with self._store.read() as transaction:
            row = spots.by_ip(transaction, ip)
        joined = row is not None and row.joined
        if not joined:  # one that joined perhaps never reached Redis to tell of itself
            self.get(who, ip)
        with self._store.write() as transaction:
            spots.alone(transaction)
            if joined:
                spots.save(transaction, SpotRow(ip=ip, joined=True, draining=True, leaving=True))
                tokens.remove(transaction, spot_user(ip))
            else:
                spots.remove(transaction, ip)  # another spot may get its address, and none of what was wanted of it
        self._bell.wish(self._store)
        return self._ask(who, "dismiss" if joined else "remove", ip)

    def drain(self, who: Principal, ip: str, draining: bool) -> Spot:
        """Have a spot take nothing new, or take work again; as it stands now, which follows within seconds."""
        access.require_admin(who)
        self.get(who, ip)
        self._want(ip, draining=draining)
        return self.get(who, ip)

    def replace(self, who: Principal, ip: str) -> str:
        """Ask for a new spot in place of this one; the execution's id."""
        access.require_admin(who)
        if self.get(who, ip).remote:
            text = f"{ip} is on another host: join a new spot there, then remove this one: fas spots remove --ip {ip}."
            raise Conflict(text)
        return self._ask(who, "replace", ip)

    def refresh(self, who: Principal, ip: str) -> str:
        """Ask that a spot's address ("all": every one's) be looked at again; the execution's id."""
        access.require_admin(who)
        if ip != "all":
            self.get(who, ip)
        return self._ask(who, "refresh", None if ip == "all" else ip)

    def update(self, who: Principal, least: int | None, most: int | None, ip: str | None = None) -> dict[str, Any]:
        """Set between how many worker processes a spot, or each that has no numbers of its own, follows its queues.

        Repeats what was asked, with `applied`. Raises Invalid, NotFound.
        """
        access.require_admin(who)
        if ip is not None:
            self.get(who, ip)
        said = {"min_workers": least, "max_workers": most}
        _check_workers(said)
        kept = self._want(ip or EVERY, least=least, most=most)
        return {"min_workers": kept.least, "max_workers": kept.most, "applied": True}

    def _want(self, ip: str, **changes: Any) -> SpotRow:
        """Keep what is wanted and tell the spots. Numbers that do not go together are refused: Invalid."""
        with self._store.write() as transaction:
            spots.alone(transaction)
            row = spots.by_ip(transaction, ip) or SpotRow(ip=ip)
            row = replace(row, **{name: value for name, value in changes.items() if value is not None})
            _check_workers({"min_workers": row.least, "max_workers": row.most})
            spots.save(transaction, row)
        self._bell.wish(self._store)
        return row

    def admit(self, who: Principal, ip: str, key: str, seconds: float) -> str:
        """Ask the supervisor to let a spot on another host in; the execution's id. `joining` has checked who asks.

        `seconds`: how long somebody waits for it. Done later it would end the credentials of a spot that stands.
        """
        return self._ask(who, "admit", ip, key, seconds)

    def _ask(
        self,
        who: Principal,
        action: SpotAction,
        ip: str | None,
        key: str | None = None,
        seconds: float | None = None,
    ) -> str:
        moment = now()
        row = NewExecution(
            uuid=new_execution_id(),
            kind="spot",
            name=NAMES[action],
            owner=who.name,
            queue=SUPERVISOR_QUEUE,
            token=new_token(),
            created=moment,
            expires=None if seconds is None else moment + int(seconds * SECOND),
            args=json.dumps({"action": action, "ip": ip, **({"key": key} if key else {})}),
        )
        with self._store.write() as transaction:
            executions.add(transaction, [row])
        task = Task(
            uuid=row.uuid,
            attempt=row.attempt,
            token=row.token,
            queue=row.queue,
            created=row.created,
            expires=row.expires,
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


def _spot(seen: SpotSeen, wanted: SpotRow | None, common: SpotRow) -> Spot:
    info = seen.info
    numbers = wanted if wanted and (wanted.least is not None or wanted.most is not None) else common
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
        remote=info.remote,
        capacity=info.capacity,
        load=info.load,
        egress=info.egress,
        min_workers=numbers.least,
        max_workers=numbers.most,
    )
