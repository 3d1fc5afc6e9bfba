"""The Docker engine: one client, its refusals as our errors, and what of its objects is ours."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from faaspot_runner.docker.threads import Threads
from faaspot_runner.errors import EngineAway, EngineError

if TYPE_CHECKING:
    from faaspot_runner.docker.client import APIClient

P = ParamSpec("P")
T = TypeVar("T")

PLATFORM, SPOT, RUNTIME, ENVIRONMENT = (
    "faaspot.platform",
    "faaspot.spot",
    "faaspot.runtime",
    "faaspot.environment",
)
"""Labels. Every container of ours has the first three, every image the first and the last; nothing else is touched."""
DEFAULT_URL = "unix:///var/run/docker.sock"
ANSWER_SECONDS = 120
PING_SECONDS = 3
TURN_SECONDS = 120.0
"""How long a call waits for a thread before the engine counts as one that does not answer."""
_ASKING, _REMOVING = 8, 4
"""Threads: what takes away has its own, so that it does not wait for what is being made."""
_ELSEWHERE = (
    "The Docker engine at {url} is not asked: only one on this machine can be, by its socket, because the spot knows a "
    "container by its processes. Say FAASPOT_SPOT_DOCKER_HOST=unix:///var/run/docker.sock, or where the socket is."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose objects: `platform` is one data directory's, `spot` one of its spots."""

    platform: str
    spot: str

    def labels(self, runtime: str) -> dict[str, str]:
        """The labels of a container."""
        return {PLATFORM: self.platform, SPOT: self.spot, RUNTIME: runtime}


class Engine:
    """An engine by its address; "" is the one of `environ` (DOCKER_HOST), else this machine's. Threads may share it.

    What asks it may block for minutes. So on an event loop it is asked in threads of its own alone (`background`,
    `removal`), and an engine that hangs holds up what is in containers and nothing else.
    """

    def __init__(self, url: str, environ: Mapping[str, str]) -> None:
        self._said = url
        self._environ = environ
        self._lock = threading.Lock()
        self._client: APIClient | None = None
        self._asking = Threads(_ASKING, "docker")
        self._removing = Threads(_REMOVING, "docker removal")

    @property
    def url(self) -> str:
        return self._said or self._environ.get("DOCKER_HOST") or DEFAULT_URL

    def ask(self, what: str, call: Callable[[APIClient], T]) -> T:
        """The engine's answer. `what` we wanted goes into the text. Raises EngineError, EngineAway; may block."""
        from faaspot_runner.docker import client

        return client.translated(what, lambda: call(self._connected()), lambda why: away(self.url, why))

    async def background(self, call: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """What a call gives that asks the engine, in a thread. Raises what it raises.

        One that gets no thread within `TURN_SECONDS` is not made: EngineAway. One whose caller is cancelled is not made
        either, if it has not begun; else it goes on to its end.
        """
        future = self._asking.submit(functools.partial(call, *args, **more))
        made: asyncio.Future[T] = asyncio.wrap_future(future)
        try:
            await asyncio.wait([made], timeout=TURN_SECONDS)
            if not made.done() and future.cancel():
                raise away(self.url, f"{_ASKING} questions wait for an answer already")
            return await made
        finally:
            made.cancel()

    async def removal(self, call: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """The same for what takes things away: it has its turn, however long that takes, also if the caller goes."""
        made: asyncio.Future[T] = asyncio.wrap_future(self._removing.submit(functools.partial(call, *args, **more)))
        return await asyncio.shield(made)

    def examine(self) -> dict[str, Any]:
        """What it says of itself (`docker info` and `docker version` as one). Quick.

        Raises EngineError if there is none that can be used.
        """
        path = self.url.removeprefix("unix://")
        if path == self.url:
            raise EngineError(_ELSEWHERE.format(url=self.url))
        if not os.path.exists(path):
            raise away(self.url, "it is not there")
        from faaspot_runner.docker import client

        def examined() -> dict[str, Any]:
            api = client.connect(self._said, self._environ, PING_SECONDS)
            try:
                return {**api.info(), **api.version()}
            finally:
                api.close()

        return client.translated("tell of itself", examined, lambda why: away(self.url, why))

    def remove(self, container: str) -> None:
        """Kill a container and take it away with its volumes; nothing if it is not there. Raises EngineError."""
        try:
            self.ask("remove a container", lambda api: api.remove_container(container, force=True, v=True))
        except EngineError as error:
            if error.status not in (404, 409):  # 409: its removal is under way
                raise

    def sweep(self, owner: Owner, runtime: str | None = None) -> int:
        """Remove the spot's containers, of one runtime or of all. Returns how many it were. Raises EngineError."""
        labels = [f"{PLATFORM}={owner.platform}", f"{SPOT}={owner.spot}"]
        labels += [f"{RUNTIME}={runtime}"] if runtime is not None else []
        found = self.ask("list containers", lambda api: api.containers(all=True, filters={"label": labels}))
        for each in found:
            self.remove(each["Id"])
        return len(found)

    def close(self) -> None:
        """Let go of the connections. Harmless when repeated."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _connected(self) -> APIClient:
        from faaspot_runner.docker import client

        if (known := self._client) is not None:
            return known
        made = client.connect(self._said, self._environ, ANSWER_SECONDS)
        with self._lock:  # not around the connecting: an engine that hangs would hold it
            if self._client is None:
                self._client = made
            else:
                made.close()
            return self._client


def away(url: str, why: str) -> EngineAway:
    """The error for an engine that does not answer."""
    return EngineAway(
        f"No Docker engine answers at {url} ({why}). Start it (systemctl start docker), and let the spot's user into "
        "the group docker, or say where it is: FAASPOT_SPOT_DOCKER_HOST."
    )


def not_there(error: EngineError) -> bool:
    """Whether the engine refused because it does not have what was asked for."""
    return error.status == 404
