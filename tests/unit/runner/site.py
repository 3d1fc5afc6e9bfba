"""A spot as the supervisor starts it: a real process with real workers, a real server, a data directory with blobs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from rq import Queue
from rq.serializers import JSONSerializer

from faaspot_runner.contract import (
    JOB_FUNCTION,
    REPORTS,
    SPOTS,
    BuildRequest,
    Limits,
    Message,
    RunEnded,
    RunRequest,
    RunStarted,
    SandboxSpec,
    SpotInfo,
    dump,
    job_id,
    load,
    load_spot,
    reply_key,
)
from tests.unit.runner.valkey import Valkey

HELLO = "def main(args, context):\n    return 'Hello ' + args.get('name', 'nobody')\n"


def eventually(look: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true value of `look`; for other processes' doings only."""
    deadline = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s, last: {value!r}"
        time.sleep(0.02)
    return value


class Site:
    """One spot and what it needs. `runtime`: "sandbox" or "process"; `program`: what is started as the spot."""

    def __init__(
        self, directory: Path, runtime: str, program: tuple[str, ...] = ("-m", "faaspot_runner", "spot")
    ) -> None:
        self.directory = directory
        self.runtime = runtime
        self.program = program
        self.data = directory / "data"
        self.server = Valkey(directory)
        self.process: subprocess.Popen[bytes] | None = None
        self.ip = "127.0.0.1"
        self.key = X25519PrivateKey.generate()
        (self.data / "keys").mkdir(parents=True)
        (self.data / "keys" / "spot.key").write_bytes(self.key.private_bytes_raw())
        self.log_path = directory / "spot.log"

    # ------------------------------------------------------------ life

    def start(self, *more: str, workers: str = "sync=1,background=1,builds=1", online: bool = True) -> None:
        """Start the spot (and the server, if it does not run) and wait until it tells of itself."""
        if self.server.process is None:
            self.server.start()
        self.client = self.server.client()
        allow = ("--runtime", "process", "--allow-process") if self.runtime == "process" else ()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-P", *self.program, "--ip", self.ip),
                    *("--data-dir", str(self.data), "--redis-url", self.server.url, "--workers", workers),
                    *("--parent-pid", str(os.getpid()), *allow, *more),
                ],
                stdout=log,
                stderr=log,
            )
        if online:
            self.online(workers)

    def online(self, workers: str) -> SpotInfo:
        """Its heartbeat, as soon as one of this process is there with all its workers."""
        wanted = {part.partition("=")[0]: int(part.partition("=")[2]) for part in workers.split(",")}
        wanted = {queue: count for queue, count in wanted.items() if count}

        def there() -> SpotInfo | None:
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            info = self.info()
            registered = self.client.scard("rq:workers") == sum(wanted.values())
            return info if info and info.workers == wanted and registered else None

        info = eventually(there)
        assert info is not None
        return info

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def info(self) -> SpotInfo | None:
        text = self.client.hget(SPOTS, self.ip)
        return load_spot(text) if isinstance(text, bytes) else None

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            eventually(self._ended, 20)
        self.server.stop()

    def _ended(self) -> bool:
        """Whether it has ended, with one more signal to hasten it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(0.2)
        except subprocess.TimeoutExpired:
            return False
        return True

    def log(self) -> str:
        return self.log_path.read_text()

    def workers(self, queue: str) -> list[int]:
        """Pids of the living workers of a queue."""
        return [pid for pid in children(self.pid) if f"--queue\0{queue}\0" in cmdline(pid)]

    # ------------------------------------------------------------ runs

    def blob(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        path = self.data / "blobs" / digest[:2] / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest

    def spec(self, code: str = HELLO, **more: Any) -> SandboxSpec:
        info = self.info()
        assert info is not None
        limits = Limits(**{"timeout": 20.0, "memory": 128, **more.pop("limits", {})})
        given = {"version_id": uuid4().hex, "deployment": "d", "version": 1, "python": next(iter(info.pythons)), **more}
        return SandboxSpec(**{"runtime": self.runtime, "code": self.blob(code.encode()), "limits": limits, **given})

    def request(self, spec: SandboxSpec, args: dict[str, Any] | None = None, **more: Any) -> RunRequest:
        given = {"execution_id": str(uuid4()), "attempt": 1, "token": uuid4().hex, "accepted": time.time(), **more}
        return RunRequest(sandbox=spec, args=json.dumps(args or {}), reply=True, **given)

    def enqueue(self, request: RunRequest | BuildRequest, queue: str = "sync") -> None:
        line = Queue(queue, connection=self.client, serializer=JSONSerializer)
        line.enqueue(
            JOB_FUNCTION,
            args=(dump(request),),
            job_id=job_id(request.execution_id, request.attempt),
            job_timeout=-1,
            result_ttl=0,
            failure_ttl=0,
        )

    def wait(self, request: RunRequest | BuildRequest, seconds: float = 20.0) -> RunEnded:
        """The end of one execution: what a waiting caller gets, or what the recorder reads."""
        if isinstance(request, RunRequest) and request.reply:
            popped = self.client.blpop([reply_key(request.execution_id)], timeout=seconds) if seconds < 4 else None
            popped = popped or eventually(lambda: self.client.lpop(reply_key(request.execution_id)), seconds)
            event = load(popped[1] if isinstance(popped, list | tuple) else popped)
        else:
            event = eventually(
                lambda: next((each for each in self.events(request) if isinstance(each, RunEnded)), None), seconds
            )
        assert isinstance(event, RunEnded), self.log()
        return event

    def run(self, code: str = HELLO, args: dict[str, Any] | None = None, **more: Any) -> RunEnded:
        """One execution of a new version."""
        request = self.request(self.spec(code, **more), args)
        self.enqueue(request)
        return self.wait(request)

    def again(self, request: RunRequest) -> RunRequest:
        """The next attempt at an execution, as the reconciler makes it."""
        return replace(request, attempt=request.attempt + 1, token=uuid4().hex)

    def events(self, request: RunRequest | BuildRequest) -> list[Message]:
        told = [load(fields[b"event"]) for _, fields in self.client.xrange(REPORTS)]
        return [
            each for each in told
            if isinstance(each, RunStarted | RunEnded) and each.execution_id == request.execution_id
        ]  # fmt: skip

    def started(self, request: RunRequest | BuildRequest) -> bool:
        return any(isinstance(each, RunStarted) for each in self.events(request))


def children(pid: int) -> list[int]:
    """Of all its threads; none if it is gone."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(each) for each in path.read_text().split()]
    return found


def descendants(pid: int) -> list[int]:
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


__all__ = ["HELLO", "Site", "alive", "children", "cmdline", "comm", "descendants", "eventually"]
