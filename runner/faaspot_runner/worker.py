"""The RQ worker of a spot: one queue, many executions in flight, no work horse.

A wake-up is taken out of the queue only by a thread that is free to run it, one at a time; a keeper thread renews
the leases and does the housekeeping. RQ sees an ordinary worker (`rq info` tells queues, workers and counts), but
decides nothing: no timeout, no retry, no job marked as failed. Started by the spot, with which it dies::

    python -m faaspot_runner.worker --name N --queue Q --socket FD --parent-pid P [settings of the spot]
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from rq import Queue, worker_registration
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import now, utcformat
from rq.worker import BaseWorker, WorkerStatus

from faaspot_runner import log as log_module
from faaspot_runner import settings as settings_module
from faaspot_runner.archives import Archives
from faaspot_runner.blobs import Blobs, Contexts
from faaspot_runner.connections import connect
from faaspot_runner.contract import QUEUE_BACKGROUND, QUEUE_BUILDS, QUEUES, RunRequest
from faaspot_runner.contract.failpoints import arm, reach
from faaspot_runner.environments.build import Environments
from faaspot_runner.execute import NICE, Executor, Means
from faaspot_runner.keeper import Keeper
from faaspot_runner.lease import Ending, Lease, Leases, Place, RedisClock, Request
from faaspot_runner.lifeline import die_with, many_descriptors
from faaspot_runner.line import Lines
from faaspot_runner.pace import Pace
from faaspot_runner.posts import Posts
from faaspot_runner.report import LiveLogs, Reporter
from faaspot_runner.runtimes.channels import Channels
from faaspot_runner.runtimes.spot_socket import Heard, SpotClient, SpotGoneError
from faaspot_runner.sandbox.cgroups import Cgroups
from faaspot_runner.sandbox.launch import run_command
from faaspot_runner.sandbox.spec import Interpreter
from faaspot_runner.settings import Settings

log = logging.getLogger(__name__)

DEQUEUE_SECONDS = 1
"""How long one wait for a wake-up takes at most; also how soon an idle worker hears that it shall stop."""
REDIS_SECONDS = 5.0
"""Socket timeout: a frozen Redis holds a thread no longer."""
KEEPER_SECONDS = 2.0
"""The same for the keeper, which must be back well before the leases run out."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
WORKER_TTL = 30
"""RQ keeps the worker's hash for this long + 60 s after a heartbeat."""
BACKGROUND_PACE = max(2, (os.cpu_count() or 1) // 2)
"""Short runs that each background worker drives at once; a spot has two such workers by default."""


class SpotWorker(BaseWorker):
    """See the module. `runs` is what executes; `work` returns after a stop, when the last run has ended."""

    def __init__(self, queue: str, *, name: str, connection: redis.Redis, runs: Runs, threads: int) -> None:
        super().__init__([queue], name=name, connection=connection, worker_ttl=WORKER_TTL, serializer=JSONSerializer)
        self._place = runs.place
        self._runs = runs
        self._threads = threads
        self._lines = Lines(connection)
        self._posts = Posts(zip(self._place.lines, self._place.intermediates, strict=True))
        self._taken = 0
        self._stopping = False
        self._suspended = False
        self._paused = False

    @property
    def connection_timeout(self) -> int:
        """RQ raises the socket's timeout to this; ours waits in short turns and keeps the short one."""
        return 0

    def _set_ip_address(self, connection: redis.Redis) -> None:
        """RQ would ask the server for a list of everybody's connections, which is not for a spot to see."""
        self.ip_address = "unknown"

    # ------------------------------------------------------------ taking

    def work(self, *_: Any, **__: Any) -> bool:
        """Take and run wake-ups until a signal or the spot's end. True if any was taken."""
        signal.signal(signal.SIGTERM, self.request_stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the terminal is the spot's to hear
        self._announce()
        threads = [threading.Thread(target=self._stand, name=f"run-{n}", daemon=True) for n in range(self._threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(DEQUEUE_SECONDS)  # in turns: a signal is handled between two of them
        self._leave()
        return self._taken > 0

    def request_stop(self, signum: int = 0, frame: object = None) -> None:
        """Take no more. Only sets a flag: a lock that this very thread holds could not be had in a signal handler."""
        self._stopping = True

    def _stand(self) -> None:
        """One thread: one after the other waits for a wake-up, and who gets one runs it itself.

        To hand it to another thread would cost two changes of context in the middle of each run's way. At each line
        stands one; who has waited for a while in vain takes its turn at the other, in case that nobody else is free.
        """
        while not self._stopping:
            post = self._posts.take()
            try:
                identifier = self._wait_at(post)
            finally:
                self._posts.leave(post)
            if identifier is not None:
                self._taken += 1
                self._serve(identifier)

    def _wait_at(self, post: tuple[str, str]) -> str | None:
        """The next wake-up of a line, None after a while."""
        if self._suspended or self._paused:
            time.sleep(DEQUEUE_SECONDS)
            return None
        return self._take(*post)

    def pause(self, paused: bool) -> None:
        """Take nothing while the spot drains; what runs goes on."""
        self._paused = paused

    def _take(self, waiting: str, intermediate: str) -> str | None:
        """The id of the next job, moved to the intermediate list until it is claimed; None after a while."""
        if self._stopping:
            return None
        try:
            moved = self._lines.ask("BLMOVE", waiting, intermediate, "LEFT", "RIGHT", DEQUEUE_SECONDS)
        except redis.RedisError as error:
            log.warning("Redis is away, trying again: %s", error)
            time.sleep(DEQUEUE_SECONDS)
            return None
        identifier = moved.decode() if isinstance(moved, bytes) else moved
        if identifier is not None and self._paused:
            self._give_back(identifier, waiting, intermediate)
            return None
        return identifier

    def _give_back(self, identifier: str, waiting: str, intermediate: str) -> None:
        """Put a wake-up back to the front of its line: it came when nothing was to be taken any more."""
        try:
            with self.connection.pipeline() as pipe:
                pipe.lrem(intermediate, 1, identifier)
                pipe.lpush(waiting, identifier)
                pipe.execute()
        except redis.RedisError as error:
            log.warning("the wake-up %s waits until it is found: %s", identifier, error)

    def _serve(self, identifier: str) -> None:
        """One wake-up, in a thread."""
        try:
            self._runs.serve(identifier)
        except redis.RedisError as error:
            # Unclaimed it stands in the intermediate list, from which the keepers put it back.
            log.warning("the wake-up %s was not taken up: %s", identifier, error)
        except Exception:
            # A defect of ours must not take the worker's other runs with it; the lease runs out, another attempt is
            # made.
            log.exception("the wake-up %s failed inside the platform", identifier)

    # ------------------------------------------------------------ what RQ sees

    def _announce(self) -> None:
        """Register, as soon as Redis is there. RQ's own refuses a name that is there; ours is made for this process."""
        pause = FIRST_PAUSE
        while not self._stopping:
            try:
                self._register(self.connection)
                return
            except redis.RedisError as error:
                log.warning("Redis is away, trying again: %s", error)
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _leave(self) -> None:
        try:
            self.register_death()  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            log.warning("this worker stays registered until it expires: %s", error)

    def beat(self, client: redis.Redis) -> None:
        """The heartbeat of RQ, from the keeper's connection. A server that came back empty is told everything anew."""
        self.last_heartbeat = now()
        with client.pipeline() as pipe:
            pipe.hset(self.key, "last_heartbeat", utcformat(self.last_heartbeat))
            pipe.expire(self.key, self.worker_ttl + 60)
            pipe.exists(WORKERS_SUSPENDED)
            fresh, _, suspended = pipe.execute()
        self._suspended = bool(suspended)
        if fresh:
            self._register(client)

    def _register(self, client: redis.Redis) -> None:
        """Tell RQ of this worker and its queue; harmless when repeated."""
        self.birth_date = self.birth_date or now()
        self.last_heartbeat = now()
        state = WorkerStatus.BUSY if self._runs.count else WorkerStatus.IDLE
        with client.pipeline() as pipe:
            pipe.hset(self.key, mapping={**self.serialize(), "state": state.value})
            pipe.expire(self.key, self.worker_ttl + 60)
            worker_registration.register(self, pipe)
            pipe.sadd(Queue.redis_queues_keys, *self._place.lines)
            pipe.execute()

    def clean(self, client: redis.Redis) -> None:
        """Have RQ forget the workers of this queue whose hash has expired."""
        worker_registration.clean_worker_registry(Queue(self._place.queue, connection=client))


class Runs:
    """Wake-ups to ends: parse, claim, execute, report."""

    def __init__(
        self, place: Place, leases: Leases, executor: Executor, reporter: Reporter, live: LiveLogs, pace: Pace
    ) -> None:
        self.place = place
        self._leases = leases
        self._executor = executor
        self._reporter = reporter
        self._live = live
        self._pace = pace

    @property
    def count(self) -> int:
        """How many are in flight."""
        return len(self._leases)

    def serve(self, identifier: str) -> None:
        """One wake-up. Raises redis.RedisError if it could not be claimed; then it stays where it was."""
        reach("after_dequeue")
        lease = self._leases.claim(identifier)
        if lease is None:
            return
        try:
            with log_module.about(lease.request), self._pace.step(_deployment(lease.request)):
                self._run(lease.request, lease)
        finally:
            self._leases.drop(lease)

    def _run(self, request: Request, lease: Lease) -> None:
        log.info("taken")
        live = self._live.open(request.execution_id)
        ended = self._executor.run(request, lease, live)
        followed = live.close()
        busy = self.count > 1
        if ended is None:
            self._reporter.dropped(lease, busy=busy)
            return
        reach("before_report")
        log.info("ended", extra={"status": ended.event.status, "reason": ended.event.reason})
        reply = isinstance(request, RunRequest) and request.reply
        try:
            self._reporter.ended(lease, ended.event, reply=reply, live=followed, busy=busy)
        finally:
            ended.settle()


def _deployment(request: Request) -> str:
    return request.sandbox.deployment if isinstance(request, RunRequest) else request.deployment


# ---------------------------------------------------------------- the process


def main(argv: Sequence[str]) -> int:
    """The worker process. Ends with 0 after a stop."""
    parser = argparse.ArgumentParser(prog="python -m faaspot_runner.worker", allow_abbrev=False)
    parser.add_argument("--name", required=True)
    parser.add_argument("--queue", required=True, choices=QUEUES)
    parser.add_argument("--socket", required=True, type=int)
    said, rest = parser.parse_known_args(argv)
    settings = settings_module.read(rest)
    arm(settings.failpoints)
    die_with(settings.parent_pid)
    many_descriptors()
    if said.queue == QUEUE_BUILDS:
        os.nice(NICE)
    log_module.configure(settings.log_level, f"worker {said.name}")
    logging.getLogger("rq").setLevel(logging.WARNING)
    with socket.socket(fileno=said.socket) as sock:
        try:
            _serve(settings, said.name, said.queue, SpotClient(sock))
        except SpotGoneError:
            log.warning("the spot is gone, so is this worker")
    return 0


def _serve(settings: Settings, name: str, queue: str, spot: SpotClient) -> None:
    """Put the parts together and work."""
    client, keeper_client = connect(settings, REDIS_SECONDS), connect(settings, KEEPER_SECONDS)
    place = Place(queue=queue, worker=name, spot=settings.ip, remote=bool(settings.api))
    clock = RedisClock()
    leases = Leases(client, place, settings.ip, clock)
    cgroups = Cgroups.described(spot.cgroups) if spot.cgroups else None
    slots = cgroups.slots(name) if cgroups else None
    channels = Channels(spot, slots=slots)
    hurry = threading.Event()
    live = LiveLogs(client)
    blobs = Blobs.of(settings)
    known = environments(settings, spot.interpreters, cgroups)
    executor = Executor(
        Means(
            spot=settings.ip,
            clock=clock,
            client=spot,
            channels=channels,
            slots=slots,
            blobs=blobs,
            contexts=Contexts(blobs, settings.data_dir / "keys" / "spot.key"),
            environments=known,
            archives=Archives(blobs, known),
            cold_start_timeout=settings.cold_start_timeout,
        )
    )
    threads = settings.build_threads if queue == QUEUE_BUILDS else settings.threads
    pace = Pace(BACKGROUND_PACE if queue == QUEUE_BACKGROUND else threads)
    runs = Runs(place, leases, executor, Reporter(client, place, hurry.wait), live, pace)
    wait_for(client)
    worker = SpotWorker(queue, name=name, connection=client, runs=runs, threads=threads)
    keeper = Keeper(keeper_client, worker, leases, channels, spot, clock, place)

    def gone(sandbox: str) -> None:
        channels.forget(sandbox)
        if slots:
            slots.forget(sandbox)

    def hasten(why: Ending) -> None:
        worker.request_stop()
        hurry.set()
        leases.stop(why)

    hurried, orphaned = functools.partial(hasten, "stopped"), functools.partial(hasten, "lost")
    spot.listen(
        Heard(cancel=leases.cancel, look=keeper.look, gone=gone, hurry=hurried, ended=orphaned, pause=worker.pause)
    )
    keeper.start()
    worker.work()
    keeper.stop()
    live.close()
    channels.close()
    if slots:
        slots.close()


def environments(settings: Settings, interpreters: Mapping[str, Interpreter], cgroups: Cgroups | None) -> Environments:
    """The environments of the settings' data directory; `cgroups` limit builds from source."""
    return Environments(
        settings.data_dir / "environments",
        settings.data_dir / "cache",
        interpreters,
        environ=settings_module.environment(),
        uid=settings.download_uid if os.geteuid() == 0 else None,
        run_command=functools.partial(run_command, cgroups=cgroups),
        resolution_age=settings.resolution_age,
    )


def wait_for(client: redis.Redis) -> None:
    """Return when Redis answers."""
    pause = FIRST_PAUSE
    while True:
        try:
            client.ping()
            return
        except redis.RedisError as error:
            log.warning("Redis is away, trying again: %s", error)
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
