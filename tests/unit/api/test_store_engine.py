"""SQLite's own: full disks, plans that stay flat, URLs that cannot be."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import event, text

from faaspot_api.domain.model import Filter
from faaspot_api.domain.names import new_execution_id
from faaspot_api.errors import Unavailable
from faaspot_api.store import executions, retention
from faaspot_api.store.engine import BadDatabaseError, Store, Transaction
from faaspot_api.store.executions import EVERYTHING, NewExecution, Scope
from faaspot_api.store.migrate import HEAD, PLACE, migrate
from faaspot_api.store.moments import from_micros


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'faaspot.db'}"
    migrate(url)
    return url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store(url, busy_seconds=0.2)
    yield store
    store.close()


def a_run(**more: object) -> NewExecution:
    values: dict[str, object] = {
        "uuid": new_execution_id(),
        "kind": "run",
        "name": "hello",
        "owner": "ann",
        "queue": "sync",
        "token": "t",
        "created": 1,
    }
    return NewExecution(**(values | more))  # type: ignore[arg-type]


def _add(store: Store, *rows: NewExecution) -> None:
    with store.write() as transaction:
        executions.add(transaction, rows)


def test_the_newest_revision_is_the_one_that_the_start_looks_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(PLACE))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_a_database_of_a_newer_release_is_refused(url: str, store: Store) -> None:
    with store.write() as transaction:
        transaction.execute(text("UPDATE alembic_version SET version_num = 'r9999'"))
    with pytest.raises(BadDatabaseError, match="another release"):
        migrate(url)


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "oracle://x", ""])
def test_a_url_that_cannot_be_used_is_refused_with_what_can(url: str) -> None:
    with pytest.raises(BadDatabaseError, match="sqlite"):
        Store(url)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_every_postgres_url_means_the_same_driver(scheme: str) -> None:
    assert Store(f"{scheme}://h/d").engine.dialect.driver == "psycopg"


def test_the_database_is_in_wal_with_foreign_keys(store: Store) -> None:
    with store.read() as transaction:
        found = {name: transaction.execute(text(f"PRAGMA {name}")).scalar() for name in _PRAGMAS}
    assert found == _PRAGMAS


_PRAGMAS = {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 1}


def test_synchronous_full_is_a_choice(url: str) -> None:
    store = Store(url, synchronous="FULL")
    with store.read() as transaction:
        assert transaction.execute(text("PRAGMA synchronous")).scalar() == 2
    store.close()


def test_a_full_disk_is_a_503_and_corrupts_nothing(store: Store) -> None:
    _add(store, a_run())

    def bound(connection: sqlite3.Connection, *_: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages + 2}")

    store.close()
    event.listen(store.writer, "connect", bound)
    big = a_run(args="x" * 100_000)
    with pytest.raises(Unavailable) as caught:
        _add(store, big)
    assert caught.value.code == "storage_full"
    event.remove(store.writer, "connect", bound)
    store.close()
    with store.read() as transaction:
        assert transaction.execute(text("PRAGMA integrity_check")).scalar() == "ok"
    _add(store, big)


def test_a_writer_of_another_program_is_waited_for_and_then_a_503(store: Store, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "faaspot.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable) as caught:
        _add(store, a_run())
    assert caught.value.code == "storage_unavailable"
    with store.read() as transaction:
        assert executions.open_rows(transaction, (0, 0), 10) == ()
    other.execute("ROLLBACK")
    other.close()
    _add(store, a_run())


def test_a_database_that_cannot_be_opened_is_a_503_without_its_path(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'nowhere' / 'x.db'}")
    with pytest.raises(Unavailable) as caught:
        store.ping()
    assert str(tmp_path) not in caught.value.message


MOMENT = from_micros(1)


@pytest.mark.parametrize(
    ("wanted", "scope", "index"),
    [
        (Filter(), EVERYTHING, "ix_executions_created"),
        (Filter(since=MOMENT, until=MOMENT), EVERYTHING, "ix_executions_created"),
        (Filter(ended=False), EVERYTHING, "ix_executions_open"),
        (Filter(status="Pending"), EVERYTHING, "ix_executions_open"),
        (Filter(status="Success"), EVERYTHING, "ix_executions_closed"),
        (Filter(reason="oom"), EVERYTHING, "ix_executions_reason"),
        (Filter(deployment="hello"), EVERYTHING, "ix_executions_deployment"),
        (Filter(), Scope(owner="ann"), "ix_executions_owner"),
        (Filter(), Scope(deployment_owner="ann"), "ix_executions_deployment_owner"),
    ],
)
@pytest.mark.parametrize("after", [None, (10**15, 10**6)])
def test_every_list_is_a_walk_along_one_index(
    store: Store, wanted: Filter, scope: Scope, index: str, after: tuple[int, int] | None
) -> None:
    """So a page costs the same with a million records: no sorting, no reading of what is not shown."""
    with store.read() as transaction:
        plan = _plan(transaction, wanted, scope, after)
    assert index in plan
    assert "TEMP B-TREE" not in plan


def test_ten_thousand_records_are_one_query_along_the_index(store: Store) -> None:
    wanted = [a_run() for _ in range(10_000)]
    with store.write() as transaction:
        executions.add(transaction, wanted)
    uuids = [row.uuid for row in reversed(wanted)]
    with store.read() as transaction:
        with _selects(transaction) as seen:
            found = executions.get_many(transaction, uuids)
        assert len(seen) == 1
        assert "USING INDEX sqlite_autoindex_executions_1 (uuid=?)" in _explained(transaction, seen)
    assert found.keys() == set(uuids)


def test_old_records_are_found_along_their_index(store: Store) -> None:
    def plan(call: Callable[[Transaction], object]) -> str:
        with store.write() as transaction:
            with _selects(transaction, "WITH") as seen:
                call(transaction)
            return _explained(transaction, seen)

    for call in (
        retention.deployments_with_ends,
        lambda transaction: retention.end_of_the_last_kept(transaction, "d", 1000),
        lambda transaction: retention.purge(transaction, "d", 1, 100),
    ):
        found = plan(call)
        assert "ix_executions_ends" in found
        assert "SCAN executions" not in found
        assert "TEMP B-TREE" not in found


def _plan(transaction: Transaction, wanted: Filter, scope: Scope, after: tuple[int, int] | None) -> str:
    with _selects(transaction) as seen:
        executions.page(transaction, wanted, scope, 100, after)
    return _explained(transaction, seen)


@contextlib.contextmanager
def _selects(transaction: Transaction, *more: str) -> Iterator[list[tuple[str, object]]]:
    """The queries that are made meanwhile, with their parameters. `more`: what one may begin with, too."""
    seen: list[tuple[str, object]] = []

    def remember(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        if statement.startswith(("SELECT", *more)):
            seen.append((statement, parameters))

    event.listen(transaction, "before_cursor_execute", remember)
    yield seen
    event.remove(transaction, "before_cursor_execute", remember)


def _explained(transaction: Transaction, seen: list[tuple[str, object]]) -> str:
    ((statement, parameters),) = seen
    rows = transaction.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
    return "\n".join(str(row[-1]) for row in rows)
