"""The peers: each starts as its own documentation says, on this machine, and ends with its block."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from rq import Queue
from tests.platforms import ROOT, eventually

from bench.measure import Target, WrongAnswer, greeting
from faaspot_api.queue.embedded import find_binary

FUNCTIONS = ROOT / "bench" / "functions"
PROCESSES, THREADS = 4, 4
IMAGE = "faaspot-test-base"
"""The image of `docker run`; any with a python3."""


@contextlib.contextmanager
def program(*command: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with all of its descendants, in the folder of the functions."""
    process = subprocess.Popen(
        command,
        cwd=FUNCTIONS,
        env={**os.environ, "PYTHONPATH": str(FUNCTIONS), **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


@contextlib.contextmanager
def _gunicorn(application: str) -> Iterator[Target]:
    port = _free_port()
    options = ("-k", "gthread", "-w", str(PROCESSES), "--threads", str(THREADS), "-b", f"127.0.0.1:{port}")
    # Its control socket has one fixed place for all: two servers at once would fall over each other's.
    with program(sys.executable, "-m", "gunicorn", *options, "--no-control-socket", application):
        eventually(lambda: _answers(port), 20, application)
        yield Target(host="127.0.0.1", port=port, path="/")


@contextlib.contextmanager
def plain_flask() -> Iterator[Target]:
    """Flask on gunicorn, gthread 4x4: no isolation, no record."""
    with _gunicorn("flask_app:app") as target:
        yield target


@contextlib.contextmanager
def functions_framework() -> Iterator[Target]:
    """functions-framework on gunicorn, gthread 4x4: no isolation, no record."""
    with _gunicorn(f"functions_framework:create_app('main', '{FUNCTIONS / 'framework_app.py'}')") as target:
        yield target


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """A Redis of its own, of the same binary and with the same durability as the platform's; its socket."""
    folder = Path(tempfile.mkdtemp(prefix="faaspot-bench-"))
    path = str(folder / "redis.sock")
    options = ("--port", "0", "--unixsocket", path, "--appendonly", "yes", "--appendfsync", "everysec")
    try:
        with program(str(find_binary()), *options, "--dir", str(folder)):
            eventually(lambda: os.path.exists(path), 10, "redis")
            yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """A queue with workers: one job from call to result, and many until the last has its result."""

    call: Callable[[int], None]
    many: Callable[[int], float]
    """Jobs a second."""


@contextlib.contextmanager
def rq_pool(worker: str, processes: int = PROCESSES) -> Iterator[Jobs]:
    """A WorkerPool of RQ: `worker` is `Worker` (forks for each job) or `SimpleWorker` (does not)."""
    with redis_server() as path:
        url = f"unix://{path}"
        more = ("-n", str(processes), "-w", f"rq.worker.{worker}", "--url", url, "-q")
        with program(sys.executable, "-m", "rq.cli", "worker-pool", "bench", *more):
            client = Redis(unix_socket_path=path)
            eventually(lambda: client.scard("rq:workers") == processes, 20, "the RQ workers")
            yield _rq_jobs(Queue("bench", connection=client))


def _rq_jobs(queue: Queue) -> Jobs:
    def call(number: int) -> None:
        result = queue.enqueue("jobs.hello", str(number)).latest_result(timeout=30)
        if result is None or result.return_value != greeting(number):
            raise WrongAnswer(f"of RQ to {number}: {result}")

    def many(count: int) -> float:
        begin = time.perf_counter()
        done = queue.finished_job_registry.count
        jobs = queue.enqueue_many([Queue.prepare_data("jobs.hello", (str(number),)) for number in range(count)])
        while queue.finished_job_registry.count < done + count:
            time.sleep(0.005)
        took = time.perf_counter() - begin
        for number, job in enumerate(jobs):
            if job.return_value(refresh=True) != greeting(number):
                raise WrongAnswer(f"of RQ to {number}")
        return count / took

    return Jobs(call=call, many=many)


@contextlib.contextmanager
def celery_prefork() -> Iterator[Jobs]:
    """Celery's default pool, four processes."""
    with redis_server() as path:
        urls = {"BENCH_REDIS": f"redis+socket://{path}", "BENCH_RESULTS": f"redis+socket://{path}"}
        options = ("--pool", "prefork", "-c", str(PROCESSES), "--loglevel", "ERROR")
        with program(sys.executable, "-m", "celery", "-A", "tasks", "worker", *options, **urls):
            os.environ.update(urls)
            hello = _module("tasks").hello
            eventually(lambda: hello.delay("0").get(timeout=20) == greeting(0), 25, "celery")
            yield _celery_jobs(hello)


def _celery_jobs(hello: Any) -> Jobs:
    def call(number: int) -> None:
        if hello.delay(str(number)).get(timeout=30) != greeting(number):
            raise WrongAnswer(f"of Celery to {number}")

    def many(count: int) -> float:
        begin = time.perf_counter()
        results = [hello.delay(str(number)) for number in range(count)]
        for number, result in enumerate(results):
            if result.get(timeout=60) != greeting(number):
                raise WrongAnswer(f"of Celery to {number}")
        return count / (time.perf_counter() - begin)

    return Jobs(call=call, many=many)


def _module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, FUNCTIONS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def docker_run() -> Callable[[int], None] | None:
    """A new container for each call; None where no engine answers or the image is not there."""
    if shutil.which("docker") is None:
        return None
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        return None

    def call(number: int) -> None:
        text = f"print('Hello ' + '{number}')"
        command = ["docker", "run", "--rm", "--network", "none", IMAGE, "python3", "-c", text]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if said != greeting(number):
            raise WrongAnswer(f"of docker run to {number}: {said}")

    return call
