"""Runtimes: defined, brought up and down on every spot that offers their types, and who uses them."""

from __future__ import annotations

from collections.abc import Iterable

from faaspot_api.domain import names
from faaspot_api.domain import runtimes as domain
from faaspot_api.domain.model import Principal, Runtime
from faaspot_api.errors import Conflict, FieldError, Invalid, NotFound
from faaspot_api.queue.base import Queue
from faaspot_api.services import access
from faaspot_api.services.offers import Offers
from faaspot_api.services.wakeups import Bell
from faaspot_api.store import deployments, runtimes
from faaspot_api.store.engine import Store, Transaction
from faaspot_runner.contract import SpotInfo
from faaspot_runner.contract.runtimes import BUILT_IN, RUNTIME_TYPES, RuntimeDefinition, Runtimes, RuntimeWanted


class RuntimeService:
    """What people do with runtimes. Definitions never change: delete one, and define it anew."""

    def __init__(self, store: Store, queue: Queue) -> None:
        self._store = store
        self._queue = queue
        self._bell = Bell(queue)

    # ------------------------------------------------------------ reading

    def list(self, who: Principal) -> tuple[Runtime, ...]:
        """Every runtime, the built-in ones first. Users that this token does not see are left out."""
        online = self._online()
        with self._store.read() as transaction:
            whole = runtimes.whole(transaction)
            uses = deployments.runtimes_in_use(transaction)
        seen = [use for use in uses if access.sees(who, use.owner, "manage")]
        offered = frozenset(name for info in online for name in info.runtimes)
        built_in = [each for name, each in BUILT_IN.items() if RUNTIME_TYPES[name].always or name in offered]
        definitions = _definitions(whole)
        return (
            *(_runtime(each, None, definitions, online, seen) for each in built_in),
            *(_runtime(each.definition, each, definitions, online, seen) for each in whole.wanted),
        )

    def get(self, who: Principal, name: str) -> Runtime:
        """One runtime. Raises NotFound."""
        for runtime in self.list(who):
            if runtime.name == name:
                return runtime
        raise _unknown(name)

    # ------------------------------------------------------------ changing

    def create(self, who: Principal, definition: RuntimeDefinition) -> Runtime:
        """Define a runtime. Raises Invalid that names every bad field, Conflict (`exists`)."""
        access.require_admin(who)
        self._online()  # raises before anything is changed
        with self._store.write() as transaction:
            runtimes.alone(transaction)
            if bad := domain.problems(definition, _definitions(runtimes.whole(transaction))):
                raise Invalid.fields(*bad)
            if definition.name in BUILT_IN:
                raise Conflict(f"The runtime {definition.name} is built in; choose another name.", code="exists")
            runtimes.add(transaction, definition, domain.first_wish(definition))
            whole = runtimes.whole(transaction)
        self._bell.want(whole)
        return self.get(who, definition.name)

    def delete(self, who: Principal, name: str) -> None:
        """Take a runtime down everywhere and forget it. Raises NotFound, Conflict (`busy`) naming who uses it."""
        access.require_admin(who)
        with self._store.write() as transaction:
            self._held(transaction, name, "deleted")
            if users := [*_wrappers(runtimes.whole(transaction), name), *_deployments(transaction, name)]:
                raise _busy(name, "deleted", users)
            runtimes.remove(transaction, name)
            whole = runtimes.whole(transaction)
        self._bell.want(whole)

    def deploy(self, who: Principal, name: str) -> Runtime:
        """Bring a runtime up on every spot that can; one that failed is tried again. A built-in one is at hand already.

        Raises NotFound, Invalid (`runtime_unavailable`) if no online spot can.
        """
        access.require_admin(who)
        seen = self._queue.spots()
        if name in BUILT_IN:
            with self._store.read() as transaction:
                Offers.of(seen, runtimes.whole(transaction).wanted).check_types(name)
            return self.get(who, name)
        with self._store.write() as transaction:
            self._held(transaction, name, "deployed")
            Offers.of(seen, runtimes.whole(transaction).wanted).check_types(name)
            runtimes.want(transaction, name, "up")
            whole = runtimes.whole(transaction)
        self._bell.want(whole)
        return self.get(who, name)

    def undeploy(self, who: Principal, name: str) -> Runtime:
        """Take a runtime out of service on every spot: what runs in it may end, nothing new starts.

        Raises NotFound, Conflict (`busy`) if another runtime in service stands on it.
        """
        access.require_admin(who)
        self._online()  # raises before anything is changed
        with self._store.write() as transaction:
            self._held(transaction, name, "undeployed")
            if users := _wrappers(runtimes.whole(transaction), name, in_service=True):
                raise _busy(name, "undeployed", users)
            runtimes.want(transaction, name, "down")
            whole = runtimes.whole(transaction)
        self._bell.want(whole)
        return self.get(who, name)

    def _held(self, transaction: Transaction, name: str, what: str) -> None:
        """Be alone with a runtime that people made. Raises NotFound, Conflict for a built-in one."""
        runtimes.alone(transaction)
        if name in BUILT_IN:
            raise Conflict(f"The runtime {name} is built in: every spot that offers it has it; it cannot be {what}.")
        if not names.is_name(name) or runtimes.by_name_alone(transaction, name) is None:
            raise _unknown(name)

    def _online(self) -> tuple[SpotInfo, ...]:
        return tuple(seen.info for seen in self._queue.spots() if seen.is_online)


def use_runtime(transaction: Transaction, name: str) -> None:
    """Let nobody delete a runtime before who needs it stands among its users.

    Raises Invalid (`runtime_unavailable`) if somebody has.
    """
    if name not in BUILT_IN and runtimes.by_name_shared(transaction, name) is None:
        bad = FieldError(field="runtime", message=f"there is no runtime {name} any more")
        raise Invalid(f"runtime: {bad.message}", code="runtime_unavailable", errors=(bad,))


def _runtime(
    definition: RuntimeDefinition,
    wish: RuntimeWanted | None,
    definitions: dict[str, RuntimeDefinition],
    online: Iterable[SpotInfo],
    uses: Iterable[deployments.RuntimeUse],
) -> Runtime:
    needed = domain.types_of(definition.name, definitions)
    name = definition.name
    able = [(info.ip, info.states.get(name)) for info in online if needed <= frozenset(info.runtimes)]
    state = domain.together(wish, able)
    wrappers = [f"runtimes/{each.name}" for each in definitions.values() if each.wraps == name]
    return Runtime(
        name=name,
        type=definition.type,
        config=dict(definition.config),
        wraps=definition.wraps,
        lazy=definition.lazy,
        external=definition.external,
        status=state.status,
        error=state.error,
        users=(*wrappers, *(f"deployments/{use.deployment}" for use in uses if use.runtime == name)),
    )


def _definitions(whole: Runtimes) -> dict[str, RuntimeDefinition]:
    return {each.definition.name: each.definition for each in whole.wanted}


def _wrappers(whole: Runtimes, name: str, *, in_service: bool = False) -> list[str]:
    """The runtimes that stand on this one, as users; `in_service`: only those that are wanted."""
    found = [each for each in whole.wanted if each.definition.wraps == name]
    return [f"runtimes/{each.definition.name}" for each in found if not in_service or each.wanted != "down"]


def _deployments(transaction: Transaction, name: str) -> list[str]:
    return [f"deployments/{use.deployment}" for use in deployments.runtimes_in_use(transaction) if use.runtime == name]


def _busy(name: str, what: str, users: list[str]) -> Conflict:
    shown = ", ".join(users[:10]) + (f" and {len(users) - 10} more" if len(users) > 10 else "")
    return Conflict(f"The runtime {name} cannot be {what}, it is in use by {shown}.")


def _unknown(name: str) -> NotFound:
    return NotFound(f"There is no runtime named {name[:100]}.")
