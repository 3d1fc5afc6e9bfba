"""A spot with two more types of runtimes, for the tests of stacks: run as a program in the place of the real one.

`box` holds a process, a mount (as root) and a directory for as long as it is up; `walled` is a sandbox that stands on
one, and refuses to work unless it does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from faaspot_runner import spot
from faaspot_runner.connectors import CONNECTORS
from faaspot_runner.connectors.base import Connector, DeploymentConfig, Sandbox
from faaspot_runner.connectors.sandbox import SandboxConnector
from faaspot_runner.contract import SandboxSpec
from faaspot_runner.errors import DeploymentError
from faaspot_runner.sandbox.spec import Material
from faaspot_runner.settings import Settings
from faaspot_runner.spot import process
from faaspot_runner.spot.ground import Ground
from faaspot_runner.spot.runtimes import TypeMeans

log = logging.getLogger(__name__)

PREFIX = "faaspot-box-"
STUCK = "f" * 32
"""An environment that a box never lets go of."""


class BoxConnector(Connector):
    """Config keys: `fail` (deploy raises after it has begun), `wait` (a file that deploy waits for)."""

    def __init__(self, config: DeploymentConfig, inner: Connector | None = None) -> None:
        super().__init__(config, inner)
        self.place: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    async def deploy(self, external: bool) -> None:
        self.place = Path(tempfile.mkdtemp(prefix=PREFIX))
        if os.geteuid() == 0:
            await _run("mount", "-t", "tmpfs", "-o", "size=1m", PREFIX, str(self.place))
        self._process = subprocess.Popen(["sleep", "1000000"], start_new_session=True)
        wait = self.config.config.get("wait")
        while wait and not Path(wait).exists():
            await asyncio.sleep(0.02)
        if self.config.config.get("fail"):
            await self.undeploy(external)
            raise DeploymentError(self.config.name, "the box has a hole")

    async def undeploy(self, external: bool) -> None:
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        if self.place is not None:
            if os.geteuid() == 0:
                await _run("umount", str(self.place))
            self.place.rmdir()
            self.place = None

    async def forget(self, environment: str) -> bool:
        if environment == STUCK:
            log.warning("it does not let go")
            await asyncio.Event().wait()
        return True


class WalledConnector(SandboxConnector):
    """It needs its box to be up, but makes its sandboxes beside it."""

    def __init__(self, config: DeploymentConfig, inner: Connector | None = None) -> None:
        super().__init__(config)
        self._box = inner

    async def open(self, spec: SandboxSpec, material: Material, deadline: float) -> Sandbox:
        assert isinstance(self._box, BoxConnector)
        assert self._box.place is not None
        return await super().open(spec, material, deadline)


async def _run(*command: str) -> None:
    await asyncio.to_thread(subprocess.run, command, check=True)


def _means(ground: Ground) -> dict[str, TypeMeans]:
    sandbox = TypeMeans(given={"cgroups": ground.cgroups, "egress": ground.egress})
    return {"sandbox": sandbox, "box": TypeMeans(), "walled": sandbox}


def _runtimes(settings: Settings) -> tuple[tuple[str, ...], list[str]]:
    return ("sandbox", "box", "walled"), []


if __name__ == "__main__":
    CONNECTORS.update({"box": BoxConnector, "walled": WalledConnector})
    process._runtimes = _runtimes
    Ground.means = _means  # type: ignore[method-assign]
    sys.exit(spot.main(sys.argv[1:]))
