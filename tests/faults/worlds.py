"""A platform with a Redis of the test's own, on a disk that can be filled: all that faults are done to."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tests.platforms import ORDINARY_UID, Platform, descendants
from tests.unit.runner.valkey import Valkey

PASSWORD = "chaos-password"
DISK_MB = 512
ATTEMPTS = 10
"""What the platform is told as its greatest number of attempts: chaos costs more of them than a day of production."""


@dataclass
class World:
    """A platform, its Redis, and all that was done to them and is to be undone."""

    platform: Platform
    valkey: Valkey
    points: Path
    small_disk: bool
    _frozen: set[int] = field(default_factory=set)

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.valkey.url, password=PASSWORD, socket_timeout=5)

    def alive(self) -> list[int]:
        return descendants(self.platform.process.pid) if self.platform.process else []

    def freeze(self, pid: int, seconds: float) -> None:
        """SIGSTOP, and on after `seconds`."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._frozen.add(pid)
            time.sleep(seconds)
        self._thaw()

    def _thaw(self) -> None:
        while self._frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._frozen.pop(), signal.SIGCONT)

    def heal(self) -> None:
        """Undo what a fault that was interrupted may have left."""
        self._thaw()
        for point in self.points.iterdir():
            point.unlink(missing_ok=True)

    def close(self) -> None:
        """End what is left, harmless when repeated."""
        self._thaw()
        if self.platform.process is not None:
            for pid in (self.platform.process.pid, *self.alive()):
                kill(pid)
            self.platform.process.wait(20)
            self.platform.process = None
        self.valkey.stop()


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def world(setup: str, **environ: str) -> Iterator[World]:
    """A platform with a Redis of the test's own, on a disk that can be filled where we are root."""
    home = Path(tempfile.mkdtemp(prefix="faaspot-e2e-chaos-", dir="/tmp"))
    redis_home, points, data = home / "redis", home / "points", home / "data"
    for path in (redis_home, points, data):
        path.mkdir()
    home.chmod(0o755)
    for path in (points, redis_home):
        path.chmod(0o777)
    small_disk = setup == "root"
    if small_disk:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=755", "chaos", str(data)], check=True)
    if setup == "user" and os.geteuid() == 0:
        for path in (home, data):
            os.chown(path, ORDINARY_UID, ORDINARY_UID)
    valkey = Valkey(redis_home, more=("--unixsocketperm", "777", "--requirepass", PASSWORD))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = {
        "FAASPOT_REDIS_URL": valkey.url,
        "FAASPOT_REDIS_PASSWORD": PASSWORD,
        "FAASPOT_FAILPOINTS": str(points),
        "FAASPOT_CALLBACK_NETWORKS": "127.0.0.0/8",
        "FAASPOT_MAX_ATTEMPTS": str(ATTEMPTS),
        "FAASPOT_GRACE": "3",
    }
    platform = Platform(setup, home, ("--port", str(port)), said | environ)
    made = World(platform=platform, valkey=valkey, points=points, small_disk=small_disk)
    valkey.start()
    try:
        yield made
    finally:
        made.close()
        if small_disk:
            subprocess.run(["umount", str(data)], check=False)
        shutil.rmtree(home, ignore_errors=True)
