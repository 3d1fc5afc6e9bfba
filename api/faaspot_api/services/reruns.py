"""Dead letters: what failed is run again, by its deployment as it stands now, one or many at a time."""

from __future__ import annotations

from dataclasses import replace

from faaspot_api.domain.model import Execution, Filter, Principal, Rerun, Reruns
from faaspot_api.domain.names import is_execution_id, is_name
from faaspot_api.domain.states import is_ended
from faaspot_api.errors import Conflict, FieldError, Invalid, NotFound
from faaspot_api.services import access, cursors
from faaspot_api.services.acceptance import Acceptance, Accepted, Order
from faaspot_api.store import deployments, executions, reruns
from faaspot_api.store.blobs import Blobs
from faaspot_api.store.engine import Store, Transaction
from faaspot_runner.contract import QUEUE_BACKGROUND

MOST = 1000
"""How many one call looks at."""
RERUNNABLE = ("Failure", "Cancelled")


class RerunService:
    """Runs executions again: new executions, with the args of the old ones, whose records stay as they are."""

    def __init__(self, store: Store, blobs: Blobs, acceptance: Acceptance) -> None:
        self._store = store
        self._blobs = blobs
        self._acceptance = acceptance

    def rerun(self, who: Principal, uuid: str) -> str:
        """Run one again, however it ended; the id of the new execution.

        Raises NotFound, Conflict (`busy`: it has not ended, or is no run; `deployment_not_ready`), Overloaded,
        Unavailable.
        """
        access.require(who, "run")
        self._acceptance.make_room(who, 1)
        with self._store.write() as transaction:
            old = executions.get(transaction, uuid, access.executions(who)) if is_execution_id(uuid) else None
            if old is None:
                raise access.unknown_execution(uuid)
            if old.kind != "run":
                raise Conflict(f"{uuid} is a {old.kind}, and only runs are run again.", execution_id=uuid)
            if not is_ended(old.status):
                raise Conflict(f"{uuid} has not ended ({old.status}); cancel it first.", execution_id=uuid)
            accepted = self._again(transaction, who, old)
        self._acceptance.announce(accepted)
        return accepted.rows[0].uuid

    def rerun_all(self, who: Principal, wanted: Filter, limit: int, cursor: str | None) -> Reruns:
        """Run again what matches and was not run again before, newest first: failures, if no status or reason is said.

        One that cannot be (its deployment is gone, say) is told with the reason. Raises Invalid, Overloaded,
        Unavailable; then none was.
        """
        access.require(who, "run")
        after = None if cursor is None else cursors.parse(cursor)
        wanted = _checked(wanted, limit)
        self._acceptance.make_room(who, limit)
        accepted: list[Accepted] = []
        items: list[Rerun] = []
        with self._store.write() as transaction:
            reruns.alone(transaction)
            found, key = executions.page(transaction, wanted, access.executions(who), limit, after)
            for old in found:
                try:
                    again = self._again(transaction, who, old)
                except (NotFound, Conflict) as error:
                    items.append(Rerun(of=old.uuid, message=error.message))
                else:
                    accepted.append(again)
                    items.append(Rerun(of=old.uuid, uuid=again.rows[0].uuid))
        for each in accepted:
            self._acceptance.announce(each)
        return Reruns(items=tuple(items), cursor=None if key is None else cursors.text(key))

    def _again(self, transaction: Transaction, who: Principal, old: Execution) -> Accepted:
        row = executions.tracked(transaction, [old.uuid])[old.uuid]
        name = row.deployment_id and deployments.living_name(transaction, row.deployment_id)
        if not name:
            raise Conflict(f"The deployment of {old.uuid} was deleted; it cannot run again.", execution_id=old.uuid)
        if old.args_blob is not None and not self._blobs.has(old.args_blob):
            message = f"The args of {old.uuid} are not there any more (backups leave large ones out): run it anew."
            raise Conflict(message, execution_id=old.uuid)
        order = Order(name=name, args=[old.given], queue=QUEUE_BACKGROUND)
        accepted = self._acceptance.within(transaction, who, order)
        reruns.add(transaction, {accepted.rows[0].uuid: old.uuid})
        return accepted


def _checked(wanted: Filter, limit: int) -> Filter:
    """The filter, of runs that have ended. Raises Invalid."""
    if not 1 <= limit <= MOST:
        raise Invalid.fields(FieldError(field="limit", message=f"must be from 1 to {MOST}"))
    if wanted.status is not None and wanted.status not in RERUNNABLE:
        raise Invalid.fields(FieldError(field="status", message=f"must be one of {', '.join(RERUNNABLE)}"))
    if wanted.deployment is not None and not is_name(wanted.deployment):
        raise Invalid.fields(FieldError(field="deployment", message="is no name of a deployment"))
    status = wanted.status or (None if wanted.reason else "Failure")
    return replace(wanted, status=status, ended=True, kind="run", rerun=False)
