"""One suite for the store, run over SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from faaspot_api.domain import names
from faaspot_api.domain.model import Filter, Settings, Token, Version
from faaspot_api.errors import Conflict, TooLarge, Unavailable
from faaspot_api.store import deployments, executions, logs, options, retention, runtimes, tokens
from faaspot_api.store.deployments import DeploymentRow
from faaspot_api.store.engine import Store, Transaction
from faaspot_api.store.executions import EVERYTHING, Ending, NewExecution, Scope
from faaspot_api.store.logs import Event
from faaspot_api.store.migrate import migrate
from faaspot_api.store.moments import MICRO, from_micros, now
from faaspot_api.store.tables import metadata
from faaspot_api.store.tokens import HashedToken
from faaspot_runner.contract import Reason, Status
from faaspot_runner.contract.runtimes import RuntimeDefinition, RuntimeWanted
from tests.postgres_servers import BINARIES, MISSING, PostgresServer, running_postgres

pytestmark = pytest.mark.slow
_numbers = itertools.count()
START = 1_700_000_000_000_000


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    if BINARIES is None:
        pytest.skip(MISSING)
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'faaspot.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create(f"t{next(_numbers)}")


@pytest.fixture
def store(empty: str) -> Iterator[Store]:
    migrate(empty)
    store = Store(empty, busy_seconds=2.0)
    yield store
    store.close()


def a_run(**more: Any) -> NewExecution:
    values: dict[str, Any] = {
        "uuid": names.new_execution_id(),
        "kind": "run",
        "name": "hello",
        "owner": "ann",
        "queue": "background",
        "token": "t1",
        "created": START,
        "deployment": "hello",
        "deployment_owner": "ann",
        "args": '{"a": 1}',
    }
    return NewExecution(**(values | more))


def add(store: Store, *rows: NewExecution) -> None:
    with store.write() as transaction:
        executions.add(transaction, rows)


def an_end(seq: int, status: Status = "Success", reason: Reason | None = None, **more: Any) -> Ending:
    values: dict[str, Any] = {
        "seq": seq,
        "status": status,
        "reason": reason,
        "started": START + 1,
        "ended": START + 2,
        "spot": "127.0.0.1",
        "output": '"x"',
        "error": None,
        "logs_truncated": False,
        "timings": {"run_ms": 1.5},
        "usage": {"cpu_ms": 2.0},
    }
    return Ending(**(values | more))


def end(store: Store, row: NewExecution, status: Status = "Success", reason: Reason | None = None) -> None:
    with store.write() as transaction:
        seq = executions.tracked(transaction, [row.uuid])[row.uuid].seq
        executions.mark_ended(transaction, [an_end(seq, status, reason)])


def a_version(number: int = 1, **more: Any) -> Version:
    values: dict[str, Any] = {
        "id": names.new_id(),
        "number": number,
        "code": "c" * 64,
        "requirements": "requests  # why",
        "lock": None,
        "environment": None,
        "context_keys": ("a", "b"),
        "settings": Settings(timeout=60.0, python="3.11", description="nul \0 and \ud800"),
        "status": "pending",
        "reason": None,
        "build": names.new_execution_id(),
        "created": from_micros(START),
        "packages": "requests",
        "context": "d" * 64,
        "context_for": "e" * 32,
    }
    return Version(**(values | more))


def a_deployment(version: Version, name: str = "hello", **more: Any) -> DeploymentRow:
    values: dict[str, Any] = {
        "id": names.new_id(),
        "name": name,
        "owner": "ann",
        "current_id": None,
        "newest_id": version.id,
        "versions": 1,
        "floor": 0,
        "created": START,
        "updated": START,
    }
    return DeploymentRow(**(values | more))


def deploy(store: Store, name: str = "hello", **more: Any) -> tuple[DeploymentRow, Version]:
    version = a_version(**more)
    row = a_deployment(version, name)
    with store.write() as transaction:
        deployments.add(transaction, row)
        deployments.add_version(transaction, row.id, version)
    return row, version


# ---------------------------------------------------------------- migrations


def test_an_empty_database_gets_its_tables_once(empty: str) -> None:
    assert migrate(empty) is True
    assert migrate(empty) is False


def test_migrations_make_the_very_tables_that_the_code_uses(store: Store) -> None:
    with store.read() as transaction:
        assert compare_metadata(MigrationContext.configure(transaction), metadata) == []


def test_of_two_that_migrate_at_once_one_wins_and_the_other_waits_for_it(empty: str) -> None:
    together = threading.Barrier(4)

    def start() -> bool:
        together.wait()
        return migrate(empty)

    with ThreadPoolExecutor(4) as pool:
        done = [future.result() for future in [pool.submit(start) for _ in range(4)]]
    assert sorted(done) == [False, False, False, True]


@pytest.mark.parametrize("empty", ["sqlite"], indirect=True)
def test_a_new_file_that_another_just_makes_its_own_is_waited_for(empty: str) -> None:
    """SQLite does not wait here by itself: one of several processes that start at once on a new file was refused."""
    with closing(sqlite3.connect(empty.removeprefix("sqlite:///"), isolation_level=None)) as another:
        another.execute("BEGIN IMMEDIATE")
        impatient = Store(empty, busy_seconds=0.05)
        with pytest.raises(Unavailable):
            impatient.ping()
        patient = Store(empty, busy_seconds=60)
        with ThreadPoolExecutor(1) as pool:
            pinged = pool.submit(patient.ping)
            with pytest.raises(TimeoutError):
                pinged.result(timeout=0.1)
            another.execute("ROLLBACK")
            pinged.result()
        impatient.close()
        patient.close()


# ---------------------------------------------------------------- transactions


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    row = a_run()
    with pytest.raises(Conflict), store.write() as transaction:
        _add_and_fail(transaction, row)
    with store.read() as transaction:
        assert executions.get(transaction, row.uuid) is None


def _add_and_fail(transaction: Transaction, row: NewExecution) -> None:
    executions.add(transaction, [row])
    raise Conflict("no")


def test_writers_in_many_threads_all_get_through(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        for future in [pool.submit(add, store, a_run()) for _ in range(200)]:
            future.result()
    with store.read() as transaction:
        assert len(executions.page(transaction, Filter(), EVERYTHING, 1000, None)[0]) == 200


def test_a_database_held_by_another_writer_is_a_503_with_a_time_to_come_back(store: Store, empty: str) -> None:
    other = Store(empty, busy_seconds=0.1)
    row, _ = deploy(store)
    with store.write() as transaction:
        deployments.alone(transaction, row.id)
        with pytest.raises(Unavailable) as caught, other.write() as second:
            deployments.alone(second, row.id)
    assert caught.value.code == "storage_unavailable"
    assert caught.value.retry_after
    other.close()
    add(store, a_run())


@pytest.mark.parametrize("empty", ["postgres"], indirect=True)
def test_a_restart_of_postgres_costs_no_later_caller_anything(store: Store, request: pytest.FixtureRequest) -> None:
    server: PostgresServer = request.getfixturevalue("postgres")
    add(store, a_run())
    server.stop()
    with pytest.raises(Unavailable):
        store.ping()
    server.start()
    add(store, a_run())
    with store.read() as transaction:
        assert len(executions.page(transaction, Filter(), EVERYTHING, 10, None)[0]) == 2


@pytest.mark.parametrize("empty", ["postgres"], indirect=True)
def test_who_was_silent_while_postgres_restarted_notices_nothing(store: Store, request: pytest.FixtureRequest) -> None:
    """Every connection that the pool keeps is dead, and no call has found that out."""
    server: PostgresServer = request.getfixturevalue("postgres")
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(store.read()).exec_driver_sql("SELECT 1")
    server.restart()
    add(store, a_run())
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(store.glance()).exec_driver_sql("SELECT 1")


# ---------------------------------------------------------------- executions


def test_a_record_comes_back_as_it_went_in(store: Store) -> None:
    row = a_run(version=3, args='{"a": "\\u0000 \\ud800 \u20ac"}')
    add(store, row)
    with store.read() as transaction:
        found = executions.get(transaction, row.uuid)
    assert found is not None
    assert (found.uuid, found.status, found.version, found.args) == (row.uuid, "Pending", 3, row.args)
    assert found.created == from_micros(START)
    assert (found.timings, found.usage, found.error, found.output) == ({}, {}, None, None)


def test_start_retry_and_end_are_written(store: Store) -> None:
    row = a_run()
    add(store, row)
    with store.write() as transaction:
        seq = executions.tracked(transaction, [row.uuid])[row.uuid].seq
        executions.mark_started(transaction, [(seq, START + 5, "127.0.0.1")])
        assert executions.tracked(transaction, [row.uuid])[row.uuid].started == START + 5
        begun = executions.tracked(transaction, [row.uuid])[row.uuid]
        waits = replace(begun, state=replace(begun.state, attempt=2, token="t2"), expires=START + 9)
        executions.mark_retried(transaction, [waits])
        again = executions.tracked(transaction, [row.uuid])[row.uuid]
        assert (again.state.status, again.state.attempt, again.state.token, again.started) == ("Pending", 2, "t2", None)
        assert again.expires == START + 9
        executions.mark_cancelling(transaction, [seq])
        assert executions.tracked(transaction, [row.uuid])[row.uuid].state.cancelling
        executions.mark_ended(transaction, [an_end(seq, "Failure", "error", error='{"type": "E"}')])
    with store.read() as transaction:
        found = executions.get(transaction, row.uuid)
    assert found is not None
    assert (found.status, found.reason, found.error, found.spot) == ("Failure", "error", {"type": "E"}, "127.0.0.1")
    assert (found.timings, found.usage) == ({"run_ms": 1.5}, {"cpu_ms": 2.0})
    assert found.ended is not None
    assert found.ended - found.created == 2 * MICRO


def test_pages_are_by_key_and_lose_and_repeat_nothing(store: Store) -> None:
    rows = [a_run(created=START + n // 3) for n in range(25)]
    add(store, *rows)
    seen: list[str] = []
    key = None
    while True:
        with store.read() as transaction:
            items, key = executions.page(transaction, Filter(), EVERYTHING, 4, key)
        seen += [item.uuid for item in items]
        add(store, a_run(created=START + 1000))  # newer ones do not move the pages
        if key is None:
            break
    assert seen == [row.uuid for row in reversed(rows)]


def test_a_page_ends_before_it_is_too_large_and_the_next_goes_on(store: Store) -> None:
    large = json.dumps({"s": "é" * 600_000}, ensure_ascii=False)  # 1.2 MB
    rows = [a_run(created=START + n, args=large if n % 2 else None) for n in range(8)]
    add(store, *rows)
    pages: list[list[str]] = []
    key = None
    while True:
        with store.read() as transaction:
            items, key = executions.page(transaction, Filter(), EVERYTHING, 100, key, 3 * 2**20)
        pages.append([item.uuid for item in items])
        if key is None:
            break
    assert [len(page) for page in pages] == [4, 4]
    assert [uuid for page in pages for uuid in page] == [row.uuid for row in reversed(rows)]
    with store.read() as transaction:
        assert len(executions.page(transaction, Filter(), EVERYTHING, 100, None, 1)[0]) == 1
        with pytest.raises(TooLarge, match="more than 3 MB together: ask for fewer"):
            executions.get_many(transaction, [row.uuid for row in rows], most=3 * 2**20)
        assert len(executions.get_many(transaction, [row.uuid for row in rows[:5]], most=3 * 2**20)) == 5


def test_every_filter_shows_what_it_says(store: Store) -> None:
    rows = [a_run(name=name, deployment=name, created=START + n) for n, name in enumerate(["a", "b", "a", "b"])]
    add(store, *rows)
    end(store, rows[0])
    end(store, rows[1], "Failure", "oom")
    shown: Callable[[Filter], list[int]] = lambda wanted: _shown(store, wanted, rows)  # noqa: E731
    assert shown(Filter()) == [3, 2, 1, 0]
    assert shown(Filter(ended=False)) == [3, 2]
    assert shown(Filter(status="Success", ended=False)) == [0]
    assert shown(Filter(status="Pending")) == [3, 2]
    assert shown(Filter(reason="oom", ended=False)) == [1]
    assert shown(Filter(reason="oom", status="Success")) == []
    assert shown(Filter(deployment="b")) == [3, 1]
    assert shown(Filter(deployment="b' OR 1=1 --")) == []
    since = from_micros(START + 1)
    assert shown(Filter(since=since)) == [3, 2, 1]
    assert shown(Filter(since=since, until=since + timedelta(microseconds=2))) == [2, 1]


def _shown(store: Store, wanted: Filter, rows: list[NewExecution]) -> list[int]:
    order = {row.uuid: number for number, row in enumerate(rows)}
    with store.read() as transaction:
        return [order[item.uuid] for item in executions.page(transaction, wanted, EVERYTHING, 100, None)[0]]


def test_a_scope_hides_what_is_not_yours(store: Store) -> None:
    mine, other = a_run(), a_run(owner="bob", deployment_owner="bob")
    by_bob = a_run(owner="bob")
    add(store, mine, other, by_bob)
    with store.read() as transaction:
        of_ann = executions.page(transaction, Filter(), Scope(deployment_owner="ann"), 10, None)[0]
        by_ann = executions.page(transaction, Filter(), Scope(owner="ann"), 10, None)[0]
        assert {item.uuid for item in of_ann} == {mine.uuid, by_bob.uuid}
        assert {item.uuid for item in by_ann} == {mine.uuid}
        assert executions.get(transaction, other.uuid, Scope(owner="ann")) is None
        found = executions.get_many(transaction, [mine.uuid, other.uuid], Scope(owner="ann"))
    assert set(found) == {mine.uuid}


def test_thousands_of_ids_are_read_at_once(store: Store) -> None:
    rows = [a_run(created=START + n) for n in range(2500)]
    add(store, *rows)
    with store.read() as transaction:
        found = executions.get_many(transaction, [row.uuid for row in rows])
        assert len(executions.given(transaction, [row.uuid for row in rows])) == 2500
    assert len(found) == 2500


def test_what_has_not_ended_is_found_page_by_page_oldest_first(store: Store) -> None:
    rows = [a_run(created=START - n) for n in range(5)]
    add(store, *rows)
    end(store, rows[1])
    with store.read() as transaction:
        first = executions.open_rows(transaction, (0, 0), 2)
        rest = executions.open_rows(transaction, (first[-1].created, first[-1].seq), 10)
    assert [row.uuid for row in (*first, *rest)] == [rows[n].uuid for n in (4, 3, 2, 0)]


def test_runs_that_wait_for_a_build_are_found_and_let_go(store: Store) -> None:
    build = a_run(kind="build")
    waiting = [a_run(waits_for=build.uuid) for _ in range(3)]
    add(store, build, *waiting, a_run())
    with store.write() as transaction:
        assert [row.uuid for row in executions.waiting_for(transaction, build.uuid)] == [row.uuid for row in waiting]
        executions.mark_ready(transaction, build.uuid)
        assert executions.waiting_for(transaction, build.uuid) == ()


def test_every_status_and_reason_fits_into_its_column(store: Store) -> None:
    for reason in (None, *get_args(Reason)):
        row = a_run()
        add(store, row)
        end(store, row, "Cancelled", reason)
        with store.read() as transaction:
            found = executions.get(transaction, row.uuid)
        assert found is not None
        assert found.reason == reason


def test_logs_keep_every_character_that_a_function_can_print(store: Store) -> None:
    text = "nul \0 ansi \x1b[0m \u20ac end\n"
    with store.write() as transaction:
        logs.keep(transaction, {"one": text, "surrogate": "a\ud800b", "empty": ""})
        logs.note(transaction, [Event(execution="one", at=1, attempt=1, what="started", detail=None)])
    with store.read() as transaction:
        assert logs.log(transaction, "one") == text
        assert logs.log(transaction, "empty") == ""
        assert logs.log(transaction, "surrogate") == "a?b"
        assert [event.what for event in logs.history(transaction, "one")] == ["started"]


# ---------------------------------------------------------------- deployments


def test_a_deployment_and_its_version_come_back_as_they_went_in(store: Store) -> None:
    row, version = deploy(store)
    with store.read() as transaction:
        assert deployments.by_name(transaction, "hello") == row
        assert deployments.version(transaction, version.id) == version
        assert deployments.version_numbered(transaction, row.id, 1) == version
        assert deployments.version_numbered(transaction, row.id, 2) is None
        view = deployments.view(transaction, row)
    assert (view.name, view.version, view.status, view.build) == ("hello", version, "pending", version.build)


def test_a_name_is_unique_among_the_living(store: Store) -> None:
    row, _ = deploy(store)
    with pytest.raises(Conflict, match="exists"):
        deploy(store)
    with store.write() as transaction:
        deployments.save(transaction, replace(row, deleted=now()))
    again, _ = deploy(store)
    with store.read() as transaction:
        found = deployments.by_name(transaction, "hello")
    assert found is not None
    assert found.id == again.id != row.id


def test_names_are_case_sensitive(store: Store) -> None:
    deploy(store)
    deploy(store, "Hello")
    with store.read() as transaction:
        assert [one.name for one in deployments.listed(transaction, None)] == ["Hello", "hello"]


def test_a_rename_to_a_taken_name_is_refused(store: Store) -> None:
    row, _ = deploy(store)
    deploy(store, "other")
    with pytest.raises(Conflict), store.write() as transaction:
        deployments.save(transaction, replace(row, name="other"))


def test_the_view_shows_the_current_version_and_the_state_of_the_newest(store: Store) -> None:
    row, first = deploy(store)
    second = a_version(2)
    with store.write() as transaction:
        deployments.set_built(transaction, first.id, "l" * 64, "env")
        deployments.add_version(transaction, row.id, second)
        row = replace(row, current_id=first.id, newest_id=second.id, versions=2)
        deployments.save(transaction, row)
        deployments.set_status(transaction, second.id, "failed", "build_failed")
    with store.read() as transaction:
        (view,) = deployments.listed(transaction, "ann")
        assert deployments.listed(transaction, "bob") == ()
        assert [version.number for version in deployments.versions_of(transaction, row.id)] == [2, 1]
    assert (view.version.number, view.version.environment, view.status) == (1, "env", "failed")


def test_a_blob_is_needed_while_a_living_deployment_refers_to_it(store: Store) -> None:
    row, version = deploy(store, lock="1" * 64, environment="env")
    parts = [version.code, version.context or "", "1" * 64, "f" * 64]
    with store.write() as transaction:
        deployments.alone_with_blobs(transaction)
        assert deployments.unneeded_blobs(transaction, parts) == {"f" * 64}
        assert deployments.unneeded_environments(transaction, ["env", "old"]) == {"old"}
        deployments.save(transaction, replace(row, deleted=now()))
        assert deployments.unneeded_blobs(transaction, parts) == set(parts)
        assert [one.id for one in deployments.uncleared(transaction)] == [row.id]
        assert deployments.deployment_of(transaction, [version.id]) == {}


# ---------------------------------------------------------------- tokens, options


def test_tokens_are_found_by_hash_and_name(store: Store) -> None:
    token = Token(name="ann", role="deployer", spots=("127.0.0.1",), created=from_micros(START))
    row = HashedToken(token=token, hash="a" * 64)
    with store.write() as transaction:
        tokens.add(transaction, row)
        assert tokens.by_hash(transaction, "a" * 64) == row
        assert tokens.by_hash(transaction, "b" * 64) is None
        assert tokens.by_name(transaction, "ann") == row
        assert tokens.listed(transaction) == (token,)
    with pytest.raises(Conflict), store.write() as transaction:
        tokens.add(transaction, replace(row, hash="b" * 64))
    with store.write() as transaction:
        assert tokens.remove(transaction, "ann") is True
        assert tokens.remove(transaction, "ann") is False


def test_an_option_is_what_was_written_last(store: Store) -> None:
    with store.write() as transaction:
        assert options.read(transaction, "x") is None
        options.write(transaction, "x", {"a": 1})
        options.write(transaction, "x", {"a": 2})
        assert options.read(transaction, "x") == {"a": 2}


# ---------------------------------------------------------------- runtimes


def test_a_runtime_is_kept_whole_and_every_change_is_a_later_revision(store: Store) -> None:
    definition = RuntimeDefinition(
        name="big", type="docker", config={"image": "debian:12"}, wraps=None, lazy=False, external=True
    )
    with store.write() as transaction:
        assert runtimes.whole(transaction).revision == 0
        runtimes.add(transaction, definition, "down")
        first = runtimes.whole(transaction)
        runtimes.want(transaction, "big", "up")
        second = runtimes.whole(transaction)
        (kept,) = second.wanted
        assert kept == RuntimeWanted(definition=definition, wanted="up", asked=second.revision)
        assert runtimes.by_name_alone(transaction, "big") == runtimes.by_name_shared(transaction, "big") == kept
        runtimes.remove(transaction, "big")
        third = runtimes.whole(transaction)
        assert runtimes.by_name_shared(transaction, "big") is None
    assert third.wanted == ()
    assert first.revision < second.revision < third.revision


def test_a_runtimes_name_is_its_own(store: Store) -> None:
    definition = RuntimeDefinition(name="big", type="docker")
    with store.write() as transaction:
        runtimes.add(transaction, definition, "known")
    with pytest.raises(Conflict) as caught, store.write() as transaction:
        runtimes.add(transaction, definition, "known")
    assert caught.value.code == "exists"


# ---------------------------------------------------------------- limits


def test_old_runs_go_oldest_first_and_one_of_those_with_long_values_at_a_time(store: Store) -> None:
    rows = [a_run(deployment_id="d", args=json.dumps({"a": "x" * 3 * 1024 * 1024})) for _ in range(3)]
    rows += [a_run(deployment_id="d") for _ in range(3)]
    add(store, *rows)
    for row in rows[:-1]:
        end(store, row)
    gone = []
    for _ in range(5):
        with store.write() as transaction:
            gone.append(retention.purge(transaction, "d", START + 2, 100))
    assert (gone[0], sum(gone), gone[-1]) == (1, 5, 0)
    with store.read() as transaction:
        assert set(executions.get_many(transaction, [row.uuid for row in rows])) == {rows[-1].uuid}


def test_the_version_that_runs_says_how_many_at_once(store: Store) -> None:
    deploy(store, "three", settings=Settings(concurrency=3))
    deploy(store, "any", settings=Settings(concurrency=0))
    deploy(store, "silent", settings=Settings(description='"concurrency": 5'))
    row, first = deploy(store, "two", settings=Settings(concurrency=2))
    second = a_version(2, settings=Settings(concurrency=9))
    with store.write() as transaction:
        deployments.add_version(transaction, row.id, second)
        deployments.save(transaction, replace(row, current_id=first.id, newest_id=second.id, versions=2))
    with store.read() as transaction:
        assert deployments.concurrency(transaction) == {"three": 3, "two": 2}
        assert deployments.concurrency(transaction, ["two", "any"]) == {"two": 2}
        assert deployments.concurrency(transaction, []) == {}
