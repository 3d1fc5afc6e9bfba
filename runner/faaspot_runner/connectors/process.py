"""The runtime `process`: no isolation at all; for development on machines without namespaces.

The same agent and wires as the sandbox. A function runs as the platform's own user, sees the whole machine and can
read what the platform can. Only its time is limited. Processes that leave the run's process group survive it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from faaspot_runner.agent import wire
from faaspot_runner.connectors.base import Connector, DeploymentConfig, Sandbox
from faaspot_runner.connectors.zygote import ZygoteSandbox
from faaspot_runner.contract import SandboxSpec
from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox.enclosure import Enclosure, boot
from faaspot_runner.sandbox.holdings import Holdings
from faaspot_runner.sandbox.launchers import AGENT
from faaspot_runner.sandbox.log import open_pipe
from faaspot_runner.sandbox.spec import BASE_ENVIRON, Material

log = logging.getLogger(__name__)


class ProcessConnector(Connector):
    """Config keys: `directory` (where the code is laid out, default: the system's temporary directory)."""

    def __init__(self, config: DeploymentConfig, inner: Connector | None = None) -> None:
        super().__init__(config, inner)
        self._directory: Path | None = config.config.get("directory")
        self._deployed = False
        self._sandboxes: set[ZygoteSandbox] = set()

    async def deploy(self, external: bool) -> None:
        log.warning("The runtime %s isolates nothing: functions can do all that this user can.", self.config.name)
        self._deployed = True

    async def undeploy(self, external: bool) -> None:
        self._deployed = False
        await asyncio.gather(*(sandbox.stop() for sandbox in list(self._sandboxes)))

    async def open(self, spec: SandboxSpec, material: Material, deadline: float) -> Sandbox:
        if not self._deployed:
            raise SandboxError(f"the runtime {self.config.name} is not deployed")
        if spec.limits.egress is not None:
            raise SandboxError("a process that nothing isolates cannot be held to an allow-list", reason="no_spot")
        started = time.monotonic()
        place = Path(tempfile.mkdtemp(prefix="faaspot-process-", dir=self._directory))
        try:
            (place / "main.py").write_bytes(material.source())
            enclosure = _start(material, place)
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise SandboxError(f"the process did not start: {error}") from error
        sandbox = ZygoteSandbox(uuid.uuid4().hex, spec, enclosure, counted=False)
        self._sandboxes.add(sandbox)
        sandbox.on_stop = lambda: self._gone(sandbox, place)
        await sandbox.ready(deadline, started)
        return sandbox

    def _gone(self, sandbox: ZygoteSandbox, place: Path) -> None:
        self._sandboxes.discard(sandbox)
        shutil.rmtree(place, ignore_errors=True)


def _start(material: Material, place: Path) -> Enclosure:
    """A zygote as a plain process. Raises OSError."""
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.setblocking(False)
    log_read, log_write = open_pipe()
    packages = material.environment / material.python.site_packages if material.environment else None
    arrange = f"import os; os.dup2({theirs.fileno()}, 3); os.closerange(4, 4096); "
    with theirs:
        try:
            process = subprocess.Popen(
                [material.python.executable, "-I", "-c", arrange + boot(str(AGENT.parent), "agent.__main__")],
                stdin=subprocess.DEVNULL,
                stdout=log_write,
                stderr=log_write,
                env=BASE_ENVIRON,
                cwd=tempfile.gettempdir(),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError:
            control.close()
            os.close(log_read)
            raise
        finally:
            os.close(log_write)
    start: dict[str, object] = {
        "isolated": False,
        "uid": None,
        "rlimits": [],
        "filter": "",
        "code": str(place),
        "modules": None,
    }
    wire.send(control, {"op": "start", "packages": str(packages) if packages else None, **start})
    return ProcessEnclosure(
        pid=process.pid,
        pidfd=os.pidfd_open(process.pid),
        control=control,
        log=log_read,
        holdings=Holdings(),
        process=process,
    )


@dataclass(kw_only=True)
class ProcessEnclosure(Enclosure):
    """A zygote without an init above it; its runs ask the kernel to die with it. It is ours to bury."""

    process: subprocess.Popen[bytes]

    async def stop(self) -> None:
        await super().stop()
        await asyncio.to_thread(self.process.wait)
