"""The recorder process's loop on a real Redis: batches, crashes, absences, events that nobody can apply."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import redis

from faaspot_api.errors import Unavailable
from faaspot_api.queue.rq import RedisQueue
from faaspot_api.queue.stream import BURIED, Event, ReportStream
from faaspot_api.recorder import BATCH, BATCH_BYTES, GATHER_SECONDS, LONGEST_GATHER, Pulse, Recorder, reconcile, usher
from faaspot_runner.contract import REPORTS, RunEnded, RunRequest, RunStarted, SandboxSpec, dump, lease_key
from faaspot_runner.contract.lanes import OVER
from tests.platforms import eventually
from tests.redis_servers import RedisServer, running_redis


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    client = server.client()
    client.flushall()
    yield client
    client.close()


def started(number: int) -> RunStarted:
    return RunStarted(execution_id=f"run-{number}", attempt=1, token="t", spot="127.0.0.1", at=1.0)


def report(client: redis.Redis, *events: Event) -> None:
    for event in events:
        client.xadd(REPORTS, {"event": dump(event)})


class Records:
    """What was applied; `trouble` is raised for what it says."""

    def __init__(self, trouble: Callable[[Sequence[Event]], Exception | None] = lambda _events: None) -> None:
        self.batches: list[list[Event]] = []
        self.known: set[str] = set()
        """What is on record already, by sync callers."""
        self.trouble = trouble

    def apply(self, events: Sequence[Event]) -> int:
        if (error := self.trouble(events)) is not None:
            raise error
        new = [event for event in events if event.execution_id not in self.known]
        self.batches.append(list(events))
        return len(new)

    @property
    def ids(self) -> list[str]:
        return [event.execution_id for batch in self.batches for event in batch]


@contextmanager
def recording(client: redis.Redis, records: Records) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=Recorder(ReportStream(client), records.apply, stop).run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def test_events_are_applied_in_order_in_batches_and_taken_out(client: redis.Redis) -> None:
    report(client, *(started(number) for number in range(600)))
    records = Records()
    with recording(client, records):
        eventually(lambda: len(records.ids) == 600, 10, "all are applied")
        report(client, started(600))
        eventually(lambda: len(records.ids) == 601, 10, "what comes later, too")
    assert records.ids == [f"run-{number}" for number in range(601)]
    assert max(len(batch) for batch in records.batches) == BATCH
    assert client.xlen(REPORTS) == 0
    assert client.xpending(REPORTS, "recorder")["pending"] == 0


class Waits(threading.Event):
    """Notes how long was waited; that long has passed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        return self.is_set()


def test_more_is_gathered_at_once_while_sync_callers_record_all_ends_themselves(client: redis.Redis) -> None:
    stop, records = Waits(), Records()
    records.known = {f"run-{number}" for number in range(6)}
    number = iter(range(8))

    def tell() -> None:
        if (next_one := next(number, None)) is None:
            stop.set()
        else:
            report(client, started(next_one))

    Recorder(ReportStream(client), records.apply, stop, tell).run()
    assert records.ids == [f"run-{number}" for number in range(8)]
    longer = [GATHER_SECONDS, 2 * GATHER_SECONDS, 4 * GATHER_SECONDS, LONGEST_GATHER, LONGEST_GATHER, LONGEST_GATHER]
    assert stop.seconds[:7] == [*longer, LONGEST_GATHER], "the first that is new still waits as long"
    assert stop.seconds[7] == GATHER_SECONDS, "then it goes fast again"


def test_what_a_killed_recorder_had_read_is_applied_by_the_next(client: redis.Redis) -> None:
    report(client, started(1), started(2))
    dead = ReportStream(client)
    assert [one.event for one in dead.read(1, 0.1)] == [started(1)]
    records = Records()
    with recording(client, records):
        eventually(lambda: len(records.ids) == 2, 10, "both are applied")
    assert records.ids == ["run-1", "run-2"]


def test_an_absent_database_only_delays(client: redis.Redis) -> None:
    left = [3]

    def away(_events: Sequence[Event]) -> Exception | None:
        left[0] -= 1
        return Unavailable("The database is busy.") if left[0] >= 0 else None

    records = Records(away)
    report(client, started(1), started(2))
    with recording(client, records):
        eventually(lambda: len(records.ids) == 2, 10, "both are applied at last")
    assert records.ids == ["run-1", "run-2"]
    assert client.xlen(BURIED) == 0


@pytest.mark.slow
def test_an_absent_redis_only_delays_even_if_it_comes_back_empty() -> None:
    records = Records()
    with running_redis() as server, recording(server.client(), records):
        report(server.client(), started(1))
        eventually(lambda: len(records.ids) == 1, 10)
        server.restart()
        server.client().flushall()
        report(server.client(), started(2))
        eventually(lambda: len(records.ids) == 2, 15)


@pytest.mark.parametrize("text", ["", "not json", '{"kind":"cancel","execution_id":"x"}', "[" * 100_000])
def test_what_is_no_event_is_moved_aside_at_once(client: redis.Redis, text: str) -> None:
    client.xadd(REPORTS, {"event": text})
    report(client, started(1))
    records = Records()
    with recording(client, records):
        eventually(lambda: records.ids == ["run-1"], 10, "the good one goes through")
    ((_, buried),) = client.xrange(BURIED)
    assert buried[b"event"].decode() == text
    assert buried[b"reason"]
    assert client.xlen(REPORTS) == 0


@pytest.mark.slow
def test_an_event_that_nobody_can_apply_is_moved_aside_after_some_tries(client: redis.Redis) -> None:
    def poisoned(events: Sequence[Event]) -> Exception | None:
        return RuntimeError("poison") if any(event.execution_id == "run-2" for event in events) else None

    records = Records(poisoned)
    report(client, *(started(number) for number in range(5)))
    with recording(client, records):
        eventually(lambda: client.xlen(BURIED) == 1, 20, "the poison is moved aside")
        eventually(lambda: client.xlen(REPORTS) == 0, 10, "the others went through")
    assert set(records.ids) == {"run-0", "run-1", "run-3", "run-4"}
    ((_, buried),) = client.xrange(BURIED)
    assert b"poison" in buried[b"reason"]


def test_a_stopping_recorder_still_applies_what_is_there(client: redis.Redis) -> None:
    stop = threading.Event()
    stop.set()
    records = Records()
    ReportStream(client).read(1, 0.001)
    report(client, *(started(number) for number in range(300)))
    Recorder(ReportStream(client), records.apply, stop).run()
    assert len(records.ids) == 300


def test_large_results_make_small_batches(client: redis.Redis) -> None:
    output = '"' + "x" * (BATCH_BYTES // 4) + '"'
    ended = RunEnded(
        execution_id="run-1", attempt=1, token="t", spot="127.0.0.1", at=1.0, status="Success", output=output
    )
    records = Records()
    report(client, ended)
    with recording(client, records):
        eventually(lambda: len(records.ids) == 1, 10)
        report(client, *[ended] * 8)
        eventually(lambda: len(records.ids) == 9, 10)
    assert max(len(batch) for batch in records.batches) <= 4


def test_the_reconciler_goes_on_through_absences_and_defects() -> None:
    stop, passes = threading.Event(), iter([Unavailable("away"), RuntimeError("defect"), None])

    def make_pass() -> None:
        error = next(passes, StopIteration)
        if error is StopIteration:
            stop.set()
        elif error is not None:
            raise error

    told: list[str] = []
    pulse = Pulse(told.append)
    reconcile(make_pass, 0.001, stop, pulse)
    assert next(passes, "all made") == "all made"
    assert pulse.problem == ""


def test_what_keeps_the_reconciler_from_its_work_is_told_until_it_is_over() -> None:
    told: list[str] = []
    stop = threading.Event()
    pulse = Pulse(told.append)

    def make_pass() -> None:
        stop.set()
        raise Unavailable("the disk is full")

    reconcile(make_pass, 0.001, stop, pulse)
    pulse.tell()
    pulse.tell()  # it is not time yet
    assert told == ["the disk is full"]
    reconcile(lambda: None, 0.001, stop, pulse)
    assert pulse.problem == ""


def test_it_tells_of_itself_between_batches(client: redis.Redis) -> None:
    told, stop = threading.Event(), threading.Event()
    recorder = Recorder(ReportStream(client), Records().apply, stop, told.set)
    thread = threading.Thread(target=recorder.run)
    thread.start()
    try:
        assert told.wait(10)
    finally:
        stop.set()
        thread.join(20)


def test_the_usher_lets_the_next_one_go_on_when_a_turn_ended_elsewhere(
    client: redis.Redis,
) -> None:
    spec = SandboxSpec(version_id="v1", deployment="many", version=1, runtime="sandbox", python="3.11", code="c0de")
    runs = [
        RunRequest(execution_id=f"run-{number}", attempt=1, token="t", sandbox=spec, concurrency=1)
        for number in range(2)
    ]
    stop = threading.Event()
    queue = RedisQueue(client)
    queue.enqueue_runs(runs, "background")
    beside = threading.Thread(target=usher, args=(queue, stop))
    beside.start()
    try:
        client.set(lease_key("run-0", 1), "t", ex=60)  # it runs, so only its word ends its turn
        assert client.lpop("rq:queue:background") == b"run-0-1"
        client.rpush(OVER, "background run-0-1")
        eventually(lambda: client.lrange("rq:queue:background", 0, -1) == [b"run-1-1"], 20, "the next one's turn")
    finally:
        stop.set()
        beside.join(20)
    assert not beside.is_alive()
