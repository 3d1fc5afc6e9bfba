"""The deployment manager: a runtime is up once, however many ask, and goes down after all that stand on it.

`DeploymentManager` is the interface, `DefaultDeploymentManager` ours. Everything runs on one event loop. Each change of
a runtime (coming up, going down) is a task of its own, so that a caller who is cancelled cancels nobody else's; while
it is under way, whoever needs the runtime waits for it and looks again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping

from faaspot_runner.connectors.base import Connector, DeploymentConfig
from faaspot_runner.contract.runtimes import RuntimeState, RuntimeStatus
from faaspot_runner.errors import DeploymentDefinitionError, DeploymentError
from faaspot_runner.runtimes.handle import Handle

log = logging.getLogger(__name__)


class DeploymentManager(ABC):
    """Brings runtimes up and down and gives out their connectors."""

    @abstractmethod
    async def deploy(self, config: DeploymentConfig) -> None:
        """Bring the runtime up, after those it wraps; a lazy one only becomes known.

        Returns when it is up. Raises DeploymentDefinitionError for a definition that cannot be, the connector's own
        exception to the caller whose deploy failed and DeploymentError to those who waited; then the name is free.
        """

    @abstractmethod
    async def undeploy(self, name: str) -> None:
        """Take the runtime down, then those that were only up for it.

        Unknown: nothing happens. In use by another runtime: it goes down after its last user.
        """

    @abstractmethod
    async def undeploy_all(self) -> None:
        """Take everything down, outermost first. Raises an ExceptionGroup of DeploymentErrors after trying all."""

    @abstractmethod
    async def close(self) -> None:
        """Free everything; called before the process ends."""

    @abstractmethod
    def get_connector(self, name: str) -> Connector | None:
        """The connector of a runtime that is up (or lazy and known), else None."""


class _Runtime:
    """One runtime, in the manager's table from its first deploy until it is down.

    `change`: the task that brings it up or (`falling`) takes it down, None while it stands still. `connector`: None
    until it is up. `explicit`: someone deployed it by name. `users`: names of the runtimes up on top of it. `workdir`:
    its own, or the one that it inherits.
    """

    __slots__ = ("change", "config", "connector", "explicit", "falling", "handle", "inner", "users", "workdir")

    def __init__(self, config: DeploymentConfig) -> None:
        self.config = config
        self.connector: Connector | None = None
        self.handle: Connector | None = None
        self.inner: _Runtime | None = None
        self.users: set[str] = set()
        self.explicit = False
        self.falling = False
        self.workdir = config.workdir
        self.change: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.config.name


class DefaultDeploymentManager(DeploymentManager):
    """`connectors` maps a type to its class, `configs` the names that `wraps` may say to their definitions.

    `configs` is read anew at each deploy. `changed` is called when a `state` may have become another.
    """

    def __init__(
        self,
        connectors: Mapping[str, type[Connector]],
        configs: Mapping[str, DeploymentConfig],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._connectors = connectors
        self._configs = configs
        self._changed = changed
        self._runtimes: dict[str, _Runtime] = {}
        self._failures: dict[str, str] = {}

    # ------------------------------------------------------------ the interface

    async def deploy(self, config: DeploymentConfig) -> None:
        self._check(config)
        runtime = await self._claim(config)
        runtime.explicit = True
        if not config.lazy:
            await self._bring_up(runtime)

    async def undeploy(self, name: str) -> None:
        self._failures.pop(name, None)
        while (runtime := self._runtimes.get(name)) is not None:
            if runtime.falling:
                await self._follow(runtime, "undeployment")
                return
            if runtime.change is not None:
                await asyncio.wait([runtime.change])
                continue
            runtime.explicit = False
            if not runtime.users:
                await self._take_down(runtime, cascade=True)
            return

    async def undeploy_all(self) -> None:
        failed: dict[str, DeploymentError] = {}
        while standing := [runtime for runtime in self._runtimes.values() if runtime.name not in failed]:
            ended = {runtime.name: asyncio.Event() for runtime in standing}
            tried = set(failed)
            falls = [self._take_down_in_order(runtime, ended, tried) for runtime in standing]
            outcomes = await asyncio.gather(*falls, return_exceptions=True)
            for runtime, outcome in zip(standing, outcomes, strict=True):
                if isinstance(outcome, asyncio.CancelledError):
                    raise outcome
                if isinstance(outcome, BaseException):
                    failed[runtime.name] = _failure(runtime.name, "undeployment", outcome)
        if failed:
            raise ExceptionGroup("Some runtimes could not be undeployed", list(failed.values()))

    async def close(self) -> None:
        await self.undeploy_all()

    def get_connector(self, name: str) -> Connector | None:
        runtime = self._runtimes.get(name)
        if runtime is None or runtime.falling:
            return None
        return runtime.handle if runtime.config.lazy or runtime.connector is not None else None

    # ------------------------------------------------------------ for those who watch

    def state(self, name: str) -> RuntimeState:
        """How a runtime stands. One that failed says so, with the failure, until it is tried again."""
        runtime = self._runtimes.get(name)
        status: RuntimeStatus = "undeployed"
        if runtime is not None and runtime.change is not None:
            return RuntimeState(status="undeploying" if runtime.falling else "deploying")
        if (failure := self._failures.get(name)) is not None:
            return RuntimeState(status="failed", error=failure)
        if runtime is not None and runtime.connector is not None:
            status = "deployed"
        return RuntimeState(status=status)

    def standing(self, name: str) -> DeploymentConfig | None:
        """The definition under which a runtime is known now, None if it is not."""
        runtime = self._runtimes.get(name)
        return None if runtime is None else runtime.config

    # ------------------------------------------------------------ definitions

    def _check(self, config: DeploymentConfig) -> None:
        """Raise DeploymentDefinitionError unless the whole stack below `config` can be."""
        stack: list[str] = []
        following: DeploymentConfig | None = config
        while following is not None:
            if following.name in stack:
                path = " -> ".join([*stack, following.name])
                raise DeploymentDefinitionError(
                    config.name,
                    f"The deployment `{config.name}` leads to a circular reference ({path}): "
                    "recursive deployment definitions are not allowed. Remove one `wraps` of the circle.",
                )
            stack.append(following.name)
            self._check_type(following)
            following = self._wrapped(following)

    def _check_type(self, config: DeploymentConfig) -> None:
        connector = self._connectors.get(config.type)
        if connector is None:
            known = ", ".join(sorted(self._connectors)) or "none"
            raise DeploymentDefinitionError(
                config.name, f"The runtime `{config.name}` has the unknown type `{config.type}`. Known types: {known}."
            )
        if config.wraps is not None and not connector.can_wrap:
            raise DeploymentDefinitionError(
                config.name,
                f"The runtime `{config.name}` wraps `{config.wraps}`, but the type `{config.type}` cannot wrap "
                "another. Remove `wraps`, or choose a type that can.",
            )

    def _wrapped(self, config: DeploymentConfig) -> DeploymentConfig | None:
        """The definition of what `config` wraps; a runtime that stands is worth more than the file's word."""
        if config.wraps is None:
            return None
        standing = self._runtimes.get(config.wraps)
        inner = standing.config if standing else self._configs.get(config.wraps)
        if inner is None:
            raise DeploymentDefinitionError(
                config.name,
                f"No valid deployment configuration for {config.wraps}. The runtime `{config.name}` wraps it: "
                "define it, or deploy it first.",
            )
        return inner

    # ------------------------------------------------------------ coming up

    async def _claim(self, config: DeploymentConfig) -> _Runtime:
        """The runtime of that name, not going down; made if there is none."""
        while (runtime := self._runtimes.get(config.name)) is not None and runtime.falling:
            assert runtime.change is not None
            await asyncio.wait([runtime.change])
        if runtime is None:
            runtime = _Runtime(config)
            runtime.handle = Handle(config, lambda: self._use(runtime), lambda: runtime.connector)
            self._runtimes[config.name] = runtime
        elif runtime.config != config:
            raise DeploymentDefinitionError(
                config.name,
                f"The runtime `{config.name}` is already deployed with another configuration. "
                "Undeploy it first, or choose another name.",
            )
        return runtime

    async def _bring_up(self, runtime: _Runtime) -> None:
        if runtime.connector is not None:
            return
        if runtime.change is not None:
            await self._follow(runtime, "deployment")
            return
        await asyncio.shield(self._begin(runtime, self._deploy(runtime), "deploy"))

    def _begin(self, runtime: _Runtime, body: Coroutine[None, None, None], what: str) -> asyncio.Task[None]:
        """The task of a change, under way."""
        self._failures.pop(runtime.name, None)
        runtime.change = asyncio.create_task(body, name=f"{what} {runtime.name}")
        self._changed()
        return runtime.change

    async def _deploy(self, runtime: _Runtime) -> None:
        """The body of the task that brings a runtime up. Leaves nothing behind if it fails."""
        try:
            # Once more: since a lazy one became known, what it wraps may have been defined anew.
            self._check(runtime.config)
            runtime.inner = await self._hold(runtime.config)
            runtime.connector = await self._start(runtime)
        except BaseException as error:
            self._fail(runtime, "deployment", error)
            await self._let_go(runtime)
            self._forget(runtime)
            raise
        finally:
            runtime.change = None
            self._changed()

    async def _start(self, runtime: _Runtime) -> Connector:
        inner = runtime.inner
        config = runtime.config
        if config.workdir is None and inner is not None and inner.workdir is not None:
            runtime.workdir = inner.workdir
            config = dataclasses.replace(config, workdir=inner.workdir)
        connector = self._connectors[config.type](config, inner.connector if inner else None)
        if not config.external:
            log.info("DEPLOYING %s", config.name)
        await connector.deploy(config.external)
        if not config.external:
            log.info("COMPLETED deployment of %s", config.name)
        return connector

    async def _hold(self, config: DeploymentConfig) -> _Runtime | None:
        """Bring up what `config` wraps and count `config` among its users, from before it is up."""
        wrapped = self._wrapped(config)
        if wrapped is None:
            return None
        inner = await self._claim(wrapped)
        inner.users.add(config.name)
        try:
            await self._bring_up(inner)
        except BaseException:
            inner.users.discard(config.name)
            raise
        return inner

    async def _use(self, runtime: _Runtime) -> Connector:
        """The connector behind a handle, brought up if this is its first use. Raises DeploymentError if it is gone."""
        current = self._runtimes.get(runtime.name)
        if current is None and runtime.config.lazy and not runtime.falling:
            # A lazy runtime whose deploy failed has left its name free; its holder may try again.
            self._runtimes[runtime.name] = current = runtime
        if current is not runtime or runtime.falling:
            raise DeploymentError(
                runtime.name, f"The runtime `{runtime.name}` was undeployed. Ask the manager for its connector again."
            )
        await self._bring_up(runtime)
        assert runtime.connector is not None
        return runtime.connector

    # ------------------------------------------------------------ going down

    async def _take_down(self, runtime: _Runtime, *, cascade: bool) -> None:
        """Undeploy a runtime that stands still; `cascade`: then what was up only for it."""
        runtime.falling = True
        if runtime.connector is None:
            self._forget(runtime)
            return
        await asyncio.shield(self._begin(runtime, self._undeploy(runtime, cascade), "undeploy"))

    async def _undeploy(self, runtime: _Runtime, cascade: bool) -> None:
        """The body of the task that takes a runtime down. One that fails stays visible and can be tried again."""
        assert runtime.connector is not None
        managed = not runtime.config.external
        if managed:
            log.info("UNDEPLOYING %s", runtime.name)
        try:
            await runtime.connector.undeploy(runtime.config.external)
        except BaseException as error:
            self._fail(runtime, "undeployment", error)
            runtime.falling = False
            raise
        finally:
            runtime.change = None
            self._changed()
        self._forget(runtime)
        if managed:
            log.info("COMPLETED undeployment of %s", runtime.name)
        inner = runtime.inner
        if inner is not None:
            inner.users.discard(runtime.name)
            if cascade and not inner.explicit:
                await self._drop(inner)

    async def _take_down_in_order(self, runtime: _Runtime, ended: Mapping[str, asyncio.Event], tried: set[str]) -> None:
        """One runtime's part in `undeploy_all`: after all that stand on it have been tried, even if one failed."""
        try:
            while runtime.change is not None:
                await asyncio.wait([runtime.change])
            for user in tuple(runtime.users):
                if user in ended:
                    await ended[user].wait()
            # Who came on top of it meanwhile goes first, in the next round.
            if self._runtimes.get(runtime.name) is runtime and runtime.users <= tried:
                runtime.explicit = False
                tried.add(runtime.name)
                await self._take_down(runtime, cascade=False)
        finally:
            ended[runtime.name].set()

    async def _let_go(self, runtime: _Runtime) -> None:
        """Undo `_hold` after a failed deploy. What fails here is logged, for the deploy's own error matters more."""
        inner, runtime.inner = runtime.inner, None
        if inner is None:
            return
        inner.users.discard(runtime.name)
        if not inner.explicit:
            outcome = (await asyncio.gather(self._drop(inner), return_exceptions=True))[0]
            if outcome is not None:
                log.warning("%s stays up: %s", inner.name, outcome)

    async def _drop(self, inner: _Runtime) -> None:
        if self._runtimes.get(inner.name) is inner:
            await self.undeploy(inner.name)

    # ------------------------------------------------------------ waiting

    async def _follow(self, runtime: _Runtime, what: str) -> None:
        """Wait for a change that another caller began. Raises DeploymentError, caused by its failure."""
        assert runtime.change is not None
        try:
            await asyncio.shield(runtime.change)
        except Exception as error:
            raise _failure(runtime.name, what, error) from error

    def _fail(self, runtime: _Runtime, what: str, error: BaseException) -> None:
        log.warning("FAILED %s of %s: %s", what, runtime.name, error)
        self._failures[runtime.name] = str(error) or type(error).__name__

    def _forget(self, runtime: _Runtime) -> None:
        if self._runtimes.get(runtime.name) is runtime:
            del self._runtimes[runtime.name]
            self._changed()


def _failure(name: str, what: str, cause: BaseException) -> DeploymentError:
    error = DeploymentError(name, f"FAILED {what} of {name}: {cause}. Remove the cause and try again.")
    error.__cause__ = cause
    return error
