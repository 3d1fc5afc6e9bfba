"""A container of ours: what the engine is asked for, and its end.

The container is the outer wall: an ordinary uid, no capability, a read-only root, limits, a network without a way out.
In it runs the launcher (`sandbox.launcher`), and in that one's sandboxes, behind the inner wall, what users wrote.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faaspot_runner.docker.engine import Engine, not_there
from faaspot_runner.errors import EngineError
from faaspot_runner.sandbox.cgroup_tree import oom_kills
from faaspot_runner.sandbox.cgroup_v1 import CPU_SHARES
from faaspot_runner.sandbox.network import NetworkLease
from faaspot_runner.sandbox.profile import profile

log = logging.getLogger(__name__)

STOPPED_SECONDS = 10.0
_POLL_SECONDS = 0.05
_LOG_BYTES = 4000
_SMALL = "size=1m,nr_inodes=64,mode=755"
MEGABYTE = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A container to be. `binds`: host directory -> place inside, read-only. `gid` None: as `uid`.

    `volumes`: where its image asks for volumes; the engine's would be writable without a limit.
    """

    image: str
    uid: int
    memory_mb: int
    pids: int
    gid: int | None = None
    cpus: float = 0.0
    oci_runtime: str = ""
    command: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    binds: Mapping[Path, str] = field(default_factory=dict)
    volumes: Sequence[str] = ()


def host_config(wanted: Wanted) -> dict[str, Any]:
    """The walls, in the engine's words."""
    limits: dict[str, Any] = {
        "Memory": wanted.memory_mb * MEGABYTE,
        "MemorySwap": wanted.memory_mb * MEGABYTE,
        "PidsLimit": wanted.pids,
        "CpuShares": CPU_SHARES,
        "OomScoreAdj": 500,
        "Ulimits": [{"Name": "core", "Soft": 1, "Hard": 1}, {"Name": "nofile", "Soft": 8192, "Hard": 8192}],
    }
    if wanted.cpus:
        limits["NanoCpus"] = int(wanted.cpus * 1e9)
    if wanted.oci_runtime:
        limits["Runtime"] = wanted.oci_runtime
    return {
        **limits,
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        # Our own profile. AppArmor's default one forbids every mount, those of a sandbox's root among them.
        "SecurityOpt": [
            "no-new-privileges",
            f"seccomp={json.dumps(profile())}",
            "apparmor=unconfined",
            "label=disable",
        ],
        # The kernel lets nobody mount a /proc of their own where the one that is there is covered in places. What
        # would be covered belongs to root; the sandboxes never see it.
        "MaskedPaths": [],
        "ReadonlyPaths": [],
        "NetworkMode": "none",
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "Tmpfs": dict.fromkeys(["/tmp", *_covered(wanted)], _SMALL),  # noqa: S108 (only there to be covered)
        "Mounts": [
            {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": True}
            for source, target in wanted.binds.items()
        ],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "64k", "max-file": "1"}},
    }


def _covered(wanted: Wanted) -> list[str]:
    """The image's volumes, as far as nothing of ours is there."""
    paths = (os.path.normpath(path) for path in wanted.volumes)
    return [path for path in paths if path not in wanted.binds.values()]


class Container:
    """A container that runs. `pid`: of the launcher's process in it, as this machine counts."""

    def __init__(self, engine: Engine, id: str, pid: int) -> None:  # noqa: A002 (the engine's word)
        self._engine = engine
        self.id = id
        self.pid = pid
        self.lease: NetworkLease | None = None

    @property
    def engine(self) -> Engine:
        """Whose container it is."""
        return self._engine

    def alive(self) -> bool:
        """Whether its launcher's process is there; without asking the engine."""
        return self.pid > 0 and Path(f"/proc/{self.pid}").exists()

    def oom_kills(self) -> int:
        """Processes in it that the kernel killed for memory so far; 0 once it is dead."""
        return oom_kills(self.pid)

    @classmethod
    def start(cls, engine: Engine, wanted: Wanted) -> Container:
        """Create and start it. Raises EngineError, and nothing is left then."""
        created = engine.ask(
            "create a container",
            lambda api: api.create_container_from_config(_config(wanted)),  # type: ignore[no-untyped-call]
        )
        container = cls(engine, str(created["Id"]), -1)
        try:
            engine.ask("start a container", lambda api: api.start(container.id))
            container.pid = int(container.state()["Pid"])
        except EngineError:
            container.remove()
            raise
        return container

    def state(self) -> dict[str, Any]:
        """What the engine says of its life. Raises EngineError."""
        told = self._engine.ask("look at a container", lambda api: api.inspect_container(self.id))
        state: dict[str, Any] = told["State"]
        return state

    def last_words(self) -> str:
        """What its first process wrote, for whoever wonders why it ended."""
        try:
            said = self._engine.ask("read a container's output", lambda api: api.logs(self.id, tail=20))
        except EngineError as error:
            return str(error)
        return bytes(said)[-_LOG_BYTES:].decode(errors="replace").strip()

    def remove(self) -> bool:
        """Kill what is left in it and take it away, with its way out; False if it is still there."""
        if self.lease is not None:
            self.lease.release()
        try:
            self._engine.remove(self.id)
            return self._is_gone()
        except EngineError as error:
            # It is swept when the spot starts again; its launcher ends with the spot's socket.
            log.warning("the container %s was not removed: %s", self.id[:12], error)
            return False

    def _is_gone(self) -> bool:
        """Wait for a removal that is under way."""
        deadline = time.monotonic() + STOPPED_SECONDS
        while time.monotonic() < deadline:
            try:
                self.state()
            except EngineError as error:
                if not_there(error):
                    return True
                raise
            time.sleep(_POLL_SECONDS)
        return False


def _config(wanted: Wanted) -> dict[str, Any]:
    gid = wanted.uid if wanted.gid is None else wanted.gid
    return {
        "Image": wanted.image,
        "Entrypoint": [wanted.command[0]],
        "Cmd": list(wanted.command[1:]),
        "Env": ["LANG=C.UTF-8"],
        "User": f"{wanted.uid}:{gid}",
        "WorkingDir": "/",
        "Hostname": "sandbox",
        "Labels": dict(wanted.labels),
        "StopSignal": "SIGKILL",
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": host_config(wanted),
    }
