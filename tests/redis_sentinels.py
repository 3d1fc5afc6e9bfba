"""Real servers that a Sentinel watches over: a master and its replica, gone afterwards."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis

from faaspot_api.queue.embedded import find_binary
from tests.platforms import eventually
from tests.redis_servers import PASSWORD

SERVICE, GUARDS = "faas", "the-sentinels-password"


@dataclass
class Watched:
    """A master, a replica, and a Sentinel that watches them, in a directory of their own."""

    home: Path
    ports: list[int]
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.ports[2]}/{SERVICE}"

    def start(self) -> None:
        master, replica, sentinel = self.ports
        own = f'requirepass {PASSWORD}\nmasterauth {PASSWORD}\nbind 127.0.0.1\nsave ""\n'
        self._run(master, own)
        self._run(replica, f"{own}replicaof 127.0.0.1 {master}\nrepl-diskless-sync-delay 0\n")
        guarded = f"requirepass {GUARDS}\n"
        watch = f"{guarded}sentinel monitor {SERVICE} 127.0.0.1 {master} 1\nsentinel auth-pass {SERVICE} {PASSWORD}\n"
        times = f"sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 3000\n"
        eventually(lambda: self._linked(replica), 20, "the replica follows its master")
        self._run(sentinel, watch + times, "--sentinel")
        eventually(lambda: self._knows_both(), 20, "the Sentinel knows both")

    def kill_master(self) -> None:
        self.processes[self.ports[0]].kill()

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(10)

    def _run(self, port: int, configuration: str, *more: str) -> None:
        path = self.home / f"{port}.conf"
        path.write_text(f"port {port}\ndir {self.home}\n{configuration}")
        command = [str(find_binary()), str(path), *more]
        self.processes[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _linked(self, port: int) -> bool:
        with contextlib.suppress(redis.RedisError), redis.Redis(port=port, password=PASSWORD) as client:
            return bool(client.info("replication").get("master_link_status") == "up")  # type: ignore[union-attr]
        return False

    def _knows_both(self) -> bool:
        with contextlib.suppress(redis.RedisError), redis.Redis(port=self.ports[2], password=GUARDS) as client:
            return bool(client.sentinel_slaves(SERVICE))  # type: ignore[no-untyped-call]
        return False


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def running_watched() -> Iterator[Watched]:
    """The three, in a directory of their own."""
    home = Path(tempfile.mkdtemp(prefix="faaspot-tests-redis-"))
    running = Watched(home, free_ports(3))
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(home)
