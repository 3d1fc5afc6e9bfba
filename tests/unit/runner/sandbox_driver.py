"""A spot in small, as a program of its own: opens sandboxes and runs code in them, asked by lines of JSON.

Standard library and the runner only, so that the tests can start it as an ordinary user with any Python 3.11+ that
this user can start. ``python sandbox_driver.py RUNTIME BLANKS`` with the runner on PYTHONPATH. One line in, one line
out::

    {"op": "run", "code": "...", "args": {}, "limits": {}, "count": 1, "together": false, "python": "/usr/bin/python3"}
    -> {"outcomes": [...], "import_log": "...", "took": [seconds]} | {"failed": {"reason", "type", "message", ...}}
    {"op": "command", "argv": [...], "limits": {}, "timeout": 5} -> CommandResult
    {"op": "blanks", "wanted": 2} -> {} once so many stand ready; {"op": "blanks", "least": 2}: or more
    {"op": "release", "versions": [...]} -> {} and those versions are gone
    {"op": "close"} -> {} and everything is taken down
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faaspot_runner.connectors import CONNECTORS
from faaspot_runner.connectors.base import Connector, DeploymentConfig, Sandbox
from faaspot_runner.connectors.sandbox import SandboxConnector
from faaspot_runner.contract import Limits, SandboxSpec
from faaspot_runner.docker.engine import Engine, Owner
from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox.cgroups import Cgroups, RunSlots
from faaspot_runner.sandbox.channel import Channel
from faaspot_runner.sandbox.launch import run_command
from faaspot_runner.sandbox.outcome import Outcome, request_frame
from faaspot_runner.sandbox.pidfd import readable
from faaspot_runner.sandbox.run import run_once
from faaspot_runner.sandbox.spec import Interpreter, Material, run_environ


def interpreter(path: str) -> Interpreter:
    """The interpreter behind a path, by starting it: it is the test's own, not a deployment's."""
    program = (
        "import os,sys; print(os.path.realpath(sys.executable), sys.base_prefix, '%d.%d.%d' % sys.version_info[:3])"
    )
    real, prefix, version = subprocess.check_output([path, "-I", "-c", program], text=True).split()
    return Interpreter(
        executable=Path(real), prefix=Path(prefix), version=version.rpartition(".")[0], full_version=version
    )


def containers(directory: Path) -> dict[str, Any]:
    """What a spot gives the runtime `docker`; the base image is the tests' own."""
    return {
        "engine": Engine("", os.environ),
        "owner": Owner(platform=f"test-{os.getpid()}", spot="127.0.0.1"),
        "directory": directory / "docker",
        "environments": directory,
        "image": os.environ["FAASPOT_TEST_DOCKER_IMAGE"],
    }


class Driver:
    """One runtime that is up, and the sandboxes that were opened in it."""

    def __init__(self, runtime: str, blanks: int = 0, *, shared_start: bool = True) -> None:
        root = runtime != "process" and os.geteuid() == 0
        self.cgroups = Cgroups.open(f"test-{os.getpid()}") if root else None
        self.slots: RunSlots | None = self.cgroups.slots("worker") if self.cgroups else None
        config: dict[str, Any] = {"cgroups": self.cgroups} if runtime != "process" else {}
        if runtime == "sandbox":
            config["runs"] = 64
        self.directory = tempfile.TemporaryDirectory(prefix="faaspot-tests-") if runtime == "docker" else None
        if self.directory:
            config |= containers(Path(self.directory.name))
        elif runtime == "sandbox":
            config |= {"blanks": blanks, "shared_start": shared_start}
        self.connector: Connector = CONNECTORS[runtime](DeploymentConfig(name=runtime, type=runtime, config=config))
        self.runtime = runtime
        self.sandboxes: dict[str, Sandbox] = {}

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What one line asks for."""
        if request["op"] == "run":
            return await self.run(request)
        if request["op"] == "command":
            return await self.command(request)
        if request["op"] == "release":
            self.connector.release(request["versions"])
            return {}
        if request["op"] == "blanks":
            await asyncio.wait_for(self.blanks(request.get("wanted"), request.get("least", 0)), 20)
            return {}
        for sandbox in self.sandboxes.values():
            await sandbox.stop()
        self.sandboxes.clear()
        return {}

    async def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run the code as often as asked, in its one sandbox."""
        limits = Limits(**request.get("limits", {}))
        try:
            sandbox = await self.sandbox(request, limits)
        except SandboxError as error:
            known = asdict(error.error)
            return {"failed": {"reason": error.reason, "text": str(error), "log": error.log, **known}}
        runs = [asyncio.to_thread(self.once, sandbox, request, limits, n) for n in range(request.get("count", 1))]
        if request.get("together"):
            ended = await asyncio.gather(*runs)
        else:
            ended = [await one for one in runs]
        if any(outcome.reason == "lost" for outcome, _, _ in ended):
            await readable(sandbox.fileno(), 5)
        return {
            "outcomes": [asdict(outcome) for outcome, _, _ in ended],
            "took": [took for _, took, _ in ended],
            "settled": all(settled for _, _, settled in ended),
            "import_log": sandbox.log,
            "import_ms": sandbox.import_ms,
            "alive": sandbox.alive(),
        }

    async def blanks(self, wanted: int | None, least: int) -> None:
        """Return when so many stand ready and none is being made."""
        assert isinstance(self.connector, SandboxConnector)
        while True:
            ready, making = self.connector.blanks.standing
            if not making and ready >= least and wanted in (None, ready):
                return
            await asyncio.sleep(0.01)

    async def sandbox(self, request: dict[str, Any], limits: Limits) -> Sandbox:
        """The sandbox of this code with these limits, opened at the first use."""
        python = request.get("python") or "/usr/bin/python3"
        key = json.dumps([request["code"], asdict(limits), python, request.get("environment")])
        if key not in self.sandboxes or not self.sandboxes[key].alive():
            spec = SandboxSpec(
                version_id=request.get("version", "v"),
                deployment="d",
                version=1,
                runtime=self.runtime,
                python="3",
                code="0",
                limits=limits,
            )
            environment = Path(request["environment"]) if request.get("environment") else None
            material = Material(
                code=request["code"].encode("utf-8", "surrogateescape"),
                python=interpreter(python),
                environment=environment,
            )
            deadline = time.monotonic() + request.get("import_timeout", 20)
            self.sandboxes[key] = await self.connector.open(spec, material, deadline)
        return self.sandboxes[key]

    def once(self, sandbox: Sandbox, request: dict[str, Any], limits: Limits, n: int) -> tuple[Outcome, float, bool]:
        """One run on a channel of its own."""
        slot = self.slots.acquire(limits, sandbox=sandbox.id) if self.slots else None
        started = time.monotonic()
        cancel = os.eventfd(1 if request.get("cancel") else 0)
        try:
            with Channel(sandbox.connect()) as channel:
                limit = request.get("result_limit", 8 * 2**20)
                args, context = json.dumps(request.get("args", {})), json.dumps(request.get("context", {}))
                outcome = run_once(
                    channel,
                    request_frame(args, context, run_environ(f"e{n}", 1), limit),
                    id=f"e{n}",
                    limits=limits,
                    deadline=time.monotonic() + limits.timeout,
                    slot=slot,
                    cancelled=cancel,
                    result_limit=limit,
                    log_limit=request.get("log_limit", 2**20),
                )
                took = time.monotonic() - started
                return outcome, took, channel.settle()
        finally:
            os.close(cancel)
            if self.slots and slot:
                self.slots.release(slot)

    async def command(self, request: dict[str, Any]) -> dict[str, Any]:
        """One command in a sandbox of its own."""
        result = await run_command(
            request["argv"],
            python=interpreter(request.get("python") or "/usr/bin/python3"),
            limits=Limits(**request.get("limits", {})),
            timeout=request.get("timeout", 10),
            output=request.get("output"),
            output_limit=request.get("output_limit", 0),
            cgroups=self.cgroups,
        )
        return asdict(result)

    async def close(self) -> None:
        """Take everything down."""
        await self.answer({"op": "close"})
        await self.connector.undeploy(False)
        if self.slots:
            self.slots.close()
        if self.cgroups:
            self.cgroups.close()
        if self.directory:
            self.directory.cleanup()


async def main(runtime: str, blanks: int) -> None:
    """Answer until the input ends."""
    driver = Driver(runtime, blanks)
    await driver.connector.deploy(False)
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await driver.answer(json.loads(line))), flush=True)
    finally:
        await driver.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
