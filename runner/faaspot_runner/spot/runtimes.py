"""The runtimes of one spot: those that it offers by itself, and those that people defined, as the API wants them.

The API always says the whole of what it wants. Each runtime that stands otherwise gets a task that brings it there, so
that one which takes minutes holds up no other; what is said meanwhile is followed afterwards. One manager knows them
all and sees to the order within a stack.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from faaspot_runner.connectors import CONNECTORS
from faaspot_runner.connectors.base import Connector, DeploymentConfig
from faaspot_runner.contract.runtimes import RUNTIME_TYPES, RuntimeDefinition, Runtimes, RuntimeState, RuntimeWanted
from faaspot_runner.errors import NotOffered, RunnerError, SandboxError
from faaspot_runner.runtimes.manager import DefaultDeploymentManager

log = logging.getLogger(__name__)

MAX_ERROR = 1000
"""Characters of a failure that travel with every heartbeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeMeans:
    """What the runtimes of one type get of their spot.

    `given`: to their connectors, whatever a definition says; `defaults`: config keys where a definition says nothing.
    `lazy`: the built-in one comes up at its first use; `away`: why none can be used now, None while they can.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    lazy: bool = False
    away: Callable[[], str | None] = lambda: None


class SpotRuntimes:
    """See the module. Lives on the spot's event loop."""

    def __init__(
        self,
        means: Mapping[str, TypeMeans],
        *,
        clear: Callable[[str], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        """`means`: by type that this spot offers. Each has a built-in runtime of its name.

        `clear` ends the sandboxes of a runtime that goes; `changed` hears that `states` may have become others.
        """
        self._means = means
        self._built_in = {
            name: _config(RuntimeDefinition(name=name, type=name, lazy=each.lazy), means)
            for name, each in means.items()
        }
        self._configs = dict(self._built_in)
        self._manager = DefaultDeploymentManager(CONNECTORS, self._configs, changed)
        self._clear = clear
        self._changed = changed
        self._revision = -1
        self._wanted: dict[str, RuntimeWanted] = {}
        self._followed: dict[str, RuntimeWanted] = {}
        self._errors: dict[str, str] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._moved = asyncio.Condition()

    async def begin(self) -> None:
        """Bring up what this spot offers by itself. Raises RunnerError if that fails."""
        for config in self._built_in.values():
            await self._manager.deploy(config)

    async def close(self) -> None:
        """Take everything down, outermost first. Raises an ExceptionGroup of what failed, after trying all."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._manager.close()

    # ------------------------------------------------------------ what is told

    @property
    def names(self) -> tuple[str, ...]:
        """The runtimes that can be used here now: the built-in ones first."""
        served = (name for name in self._wanted if self._serves(name))
        return tuple(name for name in (*self._built_in, *served) if self._is_at_hand(name))

    def states(self) -> dict[str, RuntimeState]:
        """How each one stands."""
        told = {name: self._manager.state(name) for name in self._built_in}
        for name in {*self._wanted, *self._followed}:
            followed = self._followed.get(name)
            state, error = self._manager.state(name), self._errors.get(name)
            failed = state.status == "failed" or (state.status == "undeployed" and error is not None)
            told[name] = RuntimeState(
                status="failed" if failed else state.status,
                error=(state.error or error or "")[:MAX_ERROR] if failed else None,
                asked=followed.asked if followed else 0,
            )
        return told

    # ------------------------------------------------------------ use

    def knows(self, name: str) -> bool:
        """Whether a runtime was ever heard of here."""
        return name in self._built_in or name in self._wanted

    async def connector(self, name: str) -> Connector:
        """The connector of a runtime, which is up; one that did not come up is tried again.

        Raises SandboxError with the reason `no_spot` if this spot cannot offer it: at once if it is known to be away.
        """
        task = self._tasks.get(name)
        if task is not None and self._serves(name):
            await asyncio.wait([task])
        if name not in self._built_in and not self._serves(name):
            raise NotOffered(self._absence(name))
        if away := self._away(name):
            raise NotOffered(f"The runtime {name} cannot be used on this spot now: {away}")
        try:
            await self._bring_up(self._configs[name])
        except Exception as error:
            # Whatever a connector raises: it is told to who asked.
            text = f"The runtime {name} did not come up on this spot: {error}"
            raise SandboxError(text, reason="no_spot") from error
        connector = self._manager.get_connector(name)
        if connector is None:
            raise SandboxError(f"The runtime {name} is being undeployed.", reason="no_spot")
        return connector

    def lists(self, name: str) -> bool:
        """Whether a runtime, with all that it stands on, holds a deployment to its allow-list."""
        stack = [self._configs[each] for each in self._stack(name)]
        return bool(stack) and all(RUNTIME_TYPES[each.type].egress and not each.external for each in stack)

    async def forget(self, environment: str) -> bool:
        """Have every type let go of what was made of an environment. False if one still uses a part: ask again.

        One runtime of each type is asked, if one is up: none comes up for it. What a type keeps of which none is up, or
        which is away, or fails, is swept at the spot's next start.
        """
        gone = True
        for name in self._one_of_each_type():
            try:
                connector = self._manager.get_connector(name)
                gone &= connector is None or await connector.forget(environment)
            except (RunnerError, OSError) as error:
                log.warning("the runtime %s did not let go of environment %s: %s", name, environment, error)
        return gone

    def _one_of_each_type(self) -> list[str]:
        """Names of runtimes that are up and can be used now."""
        found: dict[str, str] = {}
        for name in (*self._built_in, *self._wanted):
            if self._manager.state(name).status == "deployed" and self._is_at_hand(name):
                found.setdefault(self._configs[name].type, name)
        return list(found.values())

    def release(self, version_ids: Collection[str]) -> None:
        """Have every runtime let go of what stands ready for these versions alone."""
        for connector in self._connectors():
            connector.release(version_ids)

    @property
    def environments(self) -> frozenset[str]:
        """Names of the environments that runtimes have in use beside those of their sandboxes."""
        return frozenset().union(*(each.environments for each in self._connectors()))

    def _connectors(self) -> list[Connector]:
        found = (self._manager.get_connector(name) for name in self._configs)
        return [each for each in found if each is not None]

    async def _bring_up(self, config: DeploymentConfig) -> None:
        """Up it is, lazy or not. Raises what the connector raises."""
        await self._manager.deploy(config)
        connector = self._manager.get_connector(config.name)
        if config.lazy and connector is not None:
            await connector.deploy(config.external)
        self._errors.pop(config.name, None)

    def _is_at_hand(self, name: str) -> bool:
        """Whether every type of its stack can be used now."""
        return self._away(name) is None

    def _away(self, name: str) -> str | None:
        """Why a type of its stack cannot be used now."""
        told = (self._means[self._configs[each].type].away() for each in self._stack(name))
        return next((why for why in told if why), None)

    def _serves(self, name: str) -> bool:
        wanted = self._wanted.get(name)
        return wanted is not None and wanted.wanted != "down"

    def _absence(self, name: str) -> str:
        if name in self._wanted:
            return f"The runtime {name} is not deployed; `fas runtimes deploy {name}` brings it up."
        return f"This spot does not offer the runtime {name}."

    # ------------------------------------------------------------ following

    def want(self, said: Runtimes) -> None:
        """Follow what the API wants, unless it is older than what is followed already."""
        if said.revision <= self._revision:
            return
        self._revision = said.revision
        definitions = {each.definition.name: each.definition for each in said.wanted}
        self._wanted = {
            each.definition.name: each for each in said.wanted if self._possible(each.definition, definitions)
        }
        self._configs.clear()
        self._configs.update(self._built_in)
        self._configs.update({name: _config(each.definition, self._means) for name, each in self._wanted.items()})
        for name in {*self._wanted, *self._followed}:
            if name not in self._tasks and self._wanted.get(name) != self._followed.get(name):
                self._tasks[name] = asyncio.create_task(self._settle(name), name=f"settle {name}")

    def _possible(self, definition: RuntimeDefinition, known: Mapping[str, RuntimeDefinition]) -> bool:
        """Whether this spot offers every type of the stack; whether it can be is the manager's to judge."""
        stack, following = {definition.name}, definition
        while following.type in self._means:
            if following.wraps is None or following.wraps in self._built_in or following.wraps in stack:
                return True
            if following.wraps not in known:
                return False
            following = known[following.wraps]
            stack.add(following.name)
        return False

    async def _settle(self, name: str) -> None:
        """Follow what is wanted of one runtime until nothing else is."""
        try:
            while (wanted := self._wanted.get(name)) != self._followed.get(name):
                await self._follow(name, wanted)
                if wanted is None:
                    del self._followed[name]
                else:
                    self._followed[name] = wanted
                self._changed()
                async with self._moved:
                    self._moved.notify_all()
        finally:
            del self._tasks[name]

    async def _follow(self, name: str, wanted: RuntimeWanted | None) -> None:
        self._errors.pop(name, None)
        try:
            if wanted is None or wanted.wanted == "down" or self._is_another(name):
                await self._fall(name)
            if wanted is not None and wanted.wanted != "down":
                await self._rise(wanted)
        except Exception as error:  # noqa: BLE001 (whatever a connector raises: it stands in the state until asked anew)
            log.warning("the runtime %s is not as it should be: %s", name, error)
            self._errors[name] = str(error) or type(error).__name__

    async def _fall(self, name: str) -> None:
        if self._manager.standing(name) is not None:
            await self._clear(name)
            await self._manager.undeploy(name)

    async def _rise(self, wanted: RuntimeWanted) -> None:
        """Bring it up, or a lazy one within reach, once no part of its stack stands under an older definition."""
        name = wanted.definition.name

        def free() -> bool:
            return self._wanted.get(name) != wanted or not any(map(self._is_another, self._stack(name)))

        async with self._moved:
            await self._moved.wait_for(free)
        if self._wanted.get(name) != wanted:
            return
        if wanted.wanted == "up":
            await self._bring_up(self._configs[name])
        else:
            await self._manager.deploy(self._configs[name])

    def _is_another(self, name: str) -> bool:
        """Whether it stands under a definition that is not the present one."""
        standing = self._manager.standing(name)
        return standing is not None and standing != self._configs.get(name)

    def _stack(self, name: str) -> Iterator[str]:
        """The names from a runtime to the innermost that it stands on."""
        seen: set[str] = set()
        following = self._configs.get(name)
        while following is not None and following.name not in seen:
            seen.add(following.name)
            yield following.name
            following = self._configs.get(following.wraps or "")


def _config(definition: RuntimeDefinition, means: Mapping[str, TypeMeans]) -> DeploymentConfig:
    """The definition as the manager takes it."""
    own = means[definition.type]
    return DeploymentConfig(
        name=definition.name,
        type=definition.type,
        config={**own.defaults, **definition.config, **own.given},
        external=definition.external,
        lazy=definition.lazy,
        wraps=definition.wraps,
    )
