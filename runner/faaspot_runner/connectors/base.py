"""What a runtime must be able to do: come up, go down, open sandboxes; and what a sandbox is to its user.

Laws of a connector: `deploy` and `undeploy` are called once each, never at the same time (the manager sees to it);
after `undeploy` every sandbox of it is stopped. `open` may run any number of times at once.
"""

from __future__ import annotations

import asyncio
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from faaspot_runner.contract import Error, SandboxSpec
from faaspot_runner.docker.place import Place
from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox.channel import Channel
from faaspot_runner.sandbox.outcome import Outcome, request_frame
from faaspot_runner.sandbox.run import run_once
from faaspot_runner.sandbox.spec import Interpreter, Material, run_environ

LOG_BYTES = 64 * 1024
"""What is kept of the output of a deployment's import."""

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentConfig:
    """One runtime of a spot.

    `type` names the connector class, `config` is for that class alone. `external`: the runtime's life is not ours, its
    connector only connects and disconnects. `lazy`: it comes up at its first use. `workdir` is inherited from the
    runtime it wraps. `wraps` is the name of the runtime it stands on, None if it stands by itself.
    """

    name: str
    type: str
    config: Mapping[str, Any] = field(default_factory=dict)
    external: bool = False
    lazy: bool = True
    workdir: str | None = None
    wraps: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One execution, whole: for `Connector.run`. `args` and `context` are JSON texts of dicts; `timeout` in seconds."""

    execution_id: str
    spec: SandboxSpec
    material: Material
    attempt: int = 1
    args: str = "{}"
    context: str = "{}"
    import_timeout: float = 60.0


class Sandbox(ABC):
    """A running zygote with the user's module imported.

    `start_ms`: until its interpreter ran, `import_ms`: the user's import, `imports`: the milliseconds of its slowest
    modules, each by itself; `log`: what the import printed (bounded).
    `counted`: each of its runs goes into a cgroup slot of the worker that starts it.
    `fate`: why the platform has killed it for what its deployment did (it took too much memory), None if it has not.
    """

    id: str
    spec: SandboxSpec
    start_ms: float
    import_ms: float
    imports: Mapping[str, float]
    log: str
    counted: bool
    fate: Error | None = None

    @abstractmethod
    def connect(self) -> socket.socket:
        """A new client channel to the zygote (SOCK_SEQPACKET), for one user at a time. Raises OSError if it is dead."""

    @abstractmethod
    def alive(self) -> bool:
        """Whether its processes still live. Never blocks."""

    @abstractmethod
    def fileno(self) -> int:
        """A descriptor that becomes readable when the sandbox dies (`loop.add_reader`). Valid until `stop` returned."""

    @abstractmethod
    def retire(self) -> None:
        """Take no new runs; it dies by itself when the last one has ended. Harmless when repeated or dead."""

    @abstractmethod
    async def stop(self) -> None:
        """Kill everything in it, wait for the death, free all it held. Harmless when repeated."""


class Connector(ABC):
    """The code behind one runtime. `inner`: the connector that it wraps, None if it stands by itself."""

    can_wrap: ClassVar[bool] = False
    can_lodge: ClassVar[bool] = False
    """Whether another runtime can stand on it: then it has `lodging`."""

    def __init__(self, config: DeploymentConfig, inner: Connector | None = None) -> None:
        self.config = config
        self.inner = inner

    @abstractmethod
    async def deploy(self, external: bool) -> None:
        """Bring the runtime up; with `external` only connect to it. Raises RunnerError."""

    @abstractmethod
    async def undeploy(self, external: bool) -> None:
        """Take it down with all its sandboxes; with `external` only disconnect."""

    async def open(self, spec: SandboxSpec, material: Material, deadline: float) -> Sandbox:
        """Start a sandbox and import the user's module in it, by `deadline` (`time.monotonic`).

        A connector that keeps no sandboxes warm overrides `run` instead. Raises SandboxError; its `reason` is None if
        the platform failed, else the user's import did.
        """
        raise SandboxError(f"the runtime {self.config.name} of type {self.config.type} keeps no sandboxes")

    async def interpreter(self, python: Interpreter, log: Log) -> Interpreter:
        """What the environments of this runtime are made for; most are for this machine's own `python`.

        `log` gets lines for a build's log, from any thread. Raises SandboxError.
        """
        return python

    async def keep(self, python: Interpreter, environment: Path | None, log: Log) -> None:
        """Have a version's start prepared: an image made of its published environment, say. Raises SandboxError."""
        return

    async def forget(self, environment: str) -> bool:
        """Let go of what any runtime of this type has kept of an environment that nobody needs any more.

        False if a part is still in use: it goes with a later call. Raises SandboxError.
        """
        return True

    def release(self, version_ids: Collection[str]) -> None:
        """These versions are gone: let go of what stands ready for them alone."""
        return

    @property
    def environments(self) -> frozenset[str]:
        """Names of the environments that it has in use beside those of its sandboxes."""
        return frozenset()

    async def lodging(self, spec: SandboxSpec, material: Material) -> Place:
        """A place of this runtime in which another makes its sandboxes. Raises SandboxError."""
        raise SandboxError(f"no runtime can stand on {self.config.name}, which is of type {self.config.type}")

    async def run(self, request: Request) -> Outcome:
        """One execution from nothing to its end, in a sandbox of its own. Raises SandboxError if none came up."""
        sandbox = await self.open(request.spec, request.material, time.monotonic() + request.import_timeout)
        frame = request_frame(request.args, request.context, run_environ(request.execution_id, request.attempt))
        try:
            with Channel(sandbox.connect()) as channel:
                return await asyncio.to_thread(
                    run_once,
                    channel,
                    frame,
                    id=request.execution_id,
                    limits=request.spec.limits,
                    deadline=time.monotonic() + request.spec.limits.timeout,
                )
        finally:
            await sandbox.stop()
