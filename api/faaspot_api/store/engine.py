"""Opening the database, its transactions, and its errors in the words of the API.

SQLite: WAL, one writer at a time. Every writing transaction begins with BEGIN IMMEDIATE, because a read that turns
into a write fails at once when another has written meanwhile, whatever the busy timeout. `synchronous=NORMAL` loses no
committed record when a process or the platform is killed; a power cut may take the last moments' commits with it (the
database stays whole). `FULL` syncs at each commit and survives that, too. Never put the file on a network filesystem.
"""

from __future__ import annotations

import select
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Literal, TypeVar, cast

import structlog
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    IntegrityError,
    InvalidatePoolError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from faaspot_api.errors import ApiError, Unavailable
from faaspot_api.store.together import Together

_log = structlog.get_logger(__name__)

Result = TypeVar("Result")
Transaction = Connection
"""What the functions of the aggregates take; services pass it on and look no further."""

Synchronous = Literal["NORMAL", "FULL"]

BUSY_SECONDS = 5.0
"""How long a transaction waits for another writer before the caller gets 503."""
_AGAIN_SECONDS = 0.005
TURN_SECONDS = 0.0002
"""How often it looks whether the other writer is done."""
POOL = 16
POOL_MORE = 112
"""Connections kept, and made on demand for a burst; each waiting thread of the web may need one for an instant."""


class BadDatabaseError(ValueError):
    """A database URL that cannot be used; the text says what to do."""


class Store:
    """The database. One for a process, made after any fork; used from any thread."""

    def __init__(self, url: str, *, synchronous: Synchronous = "NORMAL", busy_seconds: float = BUSY_SECONDS) -> None:
        self._busy = busy_seconds
        checked = _checked(url)
        self.engine = self.writer = _open(checked, synchronous, busy_seconds)
        self._gathered: Together[Callable[[Transaction], Any], Any] = Together(self._do)
        self._plain = self.engine
        self._one_writer: Lock | None = None
        if self.engine.dialect.name == "sqlite":
            self._one_writer = Lock()
            self.writer = _open_sqlite(checked, synchronous, busy_seconds, writes=True)
        else:
            self._plain = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @property
    def kind(self) -> str:
        """sqlite or postgresql."""
        return self.engine.dialect.name

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A transaction that only reads: one consistent view. Raises Unavailable."""
        with _translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def glance(self) -> Iterator[Transaction]:
        """For one short statement that reads: PostgreSQL is spared BEGIN and ROLLBACK around it. Raises Unavailable."""
        with _translated(), self._plain.connect() as connection:
            yield connection

    @contextmanager
    def read_at_one_moment(self) -> Iterator[Transaction]:
        """A transaction that sees the database as it is now, however long it goes on reading. Raises Unavailable."""
        with _translated(), self.engine.connect() as connection:
            if self.kind == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
                connection.execute(text("SET LOCAL statement_timeout = 0"))
            yield connection

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction that writes: commits at the end, rolls back on any exception. Raises Unavailable."""
        with _translated(), self._turn(), self.writer.begin() as connection:
            yield connection

    def together(self, work: Callable[[Transaction], Result]) -> Result:
        """Do short work in a writing transaction that it may share with the work of other threads.

        It may be done a second time, in a transaction of its own, if another one's work raised. Raises what it raises,
        and Unavailable.
        """
        return cast(Result, self._gathered.do(work))

    def _do(self, works: Sequence[Callable[[Transaction], Any]]) -> list[Any]:
        with self.write() as transaction:
            return [work(transaction) for work in works]

    def ping(self) -> None:
        """Answers, or raises Unavailable that says why."""
        with self.read() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Give every connection back."""
        self.engine.dispose()
        self.writer.dispose()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Threads of this process queue here for SQLite's one writer: its own waiting is by sleeping, and unfair."""
        if self._one_writer is None:
            yield
        elif self._one_writer.acquire(timeout=self._busy):
            try:
                yield
            finally:
                self._one_writer.release()
        else:
            raise _busy()


def hold(transaction: Transaction, number: int) -> None:
    """Let only one transaction at a time past this `number` until it ends. On SQLite a writer is alone anyway."""
    if transaction.dialect.name == "postgresql":
        transaction.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


def _checked(text_url: str) -> URL:
    try:
        url = make_url(text_url)
    except ArgumentError:
        raise BadDatabaseError("the database URL is malformed; give sqlite:///PATH or postgresql://...") from None
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise BadDatabaseError(f"the database {url.drivername!r} is not supported; give sqlite or postgresql")
    return url


def _open(url: URL, synchronous: Synchronous, busy: float) -> Engine:
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url, synchronous, busy)
    try:
        engine = create_engine(
            url,
            pool_size=POOL,
            max_overflow=POOL_MORE,
            pool_timeout=busy,
            pool_use_lifo=True,
            connect_args={"connect_timeout": max(2, round(busy)), "options": _postgres_options(busy)},
        )
    except (ModuleNotFoundError, NoSuchModuleError):
        raise BadDatabaseError(
            "PostgreSQL needs psycopg; in a clone of faaspot: pip install -e '.[postgres]'"
        ) from None
    event.listen(engine, "checkout", _refuse_dead)
    return engine


def _refuse_dead(connection: Any, _record: object, _proxy: object) -> None:
    """Called by the pool before a connection is used again: one that its server has closed goes, with all the others.

    An idle connection has nothing to read but its end. A ping (`pool_pre_ping`) would ask the server each time.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        raise InvalidatePoolError


def _postgres_options(busy: float) -> str:
    """A lock or a statement that takes too long is a 503, not a thread that hangs."""
    return f"-c lock_timeout={round(busy * 1000)} -c statement_timeout=30000 -c timezone=UTC"


def _open_sqlite(url: URL, synchronous: Synchronous, busy: float, *, writes: bool = False) -> Engine:
    """`writes`: its transactions are writers, and wait for their turn in `_begin_write`, not in SQLite."""
    engine = create_engine(
        url,
        pool_size=POOL,
        max_overflow=POOL_MORE,
        pool_timeout=busy,
        pool_use_lifo=True,
        connect_args={"timeout": busy, "check_same_thread": False},
    )

    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves; the driver's own comes too late
        _into_wal(connection, busy)
        for pragma in (f"synchronous={synchronous}", "foreign_keys=ON", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        if writes:
            connection.execute("PRAGMA busy_timeout=0")

    def begin(connection: Connection) -> None:
        # The driver's own connection: going through SQLAlchemy for a word without parameters doubles its cost.
        driver: Any = connection.connection.driver_connection
        try:
            if writes:
                _begin_write(driver, busy)
            else:
                driver.execute("BEGIN")
        except sqlite3.Error as error:
            raise OperationalError("BEGIN", None, error) from error

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)
    return engine


def _into_wal(connection: sqlite3.Connection, busy: float) -> None:
    """Make the file a WAL database, which it stays. Where another connection just does so, SQLite refuses this one
    at once, without its busy timeout (two that wait to be alone with the file would wait for ever): so we wait here."""
    until = time.monotonic() + busy
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(_AGAIN_SECONDS)


def _begin_write(driver: sqlite3.Connection, busy: float) -> None:
    """Become the one writer. Raises sqlite3.OperationalError if another process is it for longer than `busy` seconds.

    SQLite's own waiting sleeps for longer and longer, up to 100 ms, where a transaction takes less than one.
    """
    deadline = time.monotonic() + busy
    while True:
        try:
            driver.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
        time.sleep(TURN_SECONDS)


@contextmanager
def _translated() -> Iterator[None]:
    """The database's troubles as the API's; what is a defect of ours (a bad statement or value) stays what it is."""
    try:
        yield
    except (IntegrityError, DataError, ProgrammingError):
        raise
    except (DatabaseError, PoolTimeout) as error:
        raise translate(error) from error
    except sqlite3.Error as error:  # from PRAGMA, outside SQLAlchemy
        raise _away(str(error)) from error


def translate(error: SQLAlchemyError) -> ApiError:
    """What a failing database means for the caller."""
    original: Any = getattr(error, "orig", None)
    name = getattr(original, "sqlite_errorname", None) or ""
    state = getattr(original, "sqlstate", None) or ""
    if name == "SQLITE_FULL" or state == "53100":
        return Unavailable(
            "The disk that holds the records is full; free some space and try again.",
            code="storage_full",
            retry_after=30,
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or state in ("55P03", "40001", "40P01"):
        return _busy()
    return _away(str(original or error))


def _busy() -> Unavailable:
    return Unavailable(
        "The database is busy with another writer; try again in a moment.", code="storage_unavailable", retry_after=2
    )


def _away(why: str) -> Unavailable:
    """The cause is for the operator: it may name hosts and paths."""
    _log.warning("database_unavailable", why=why.strip().partition("\n")[0])
    return Unavailable("The database cannot be used now; try again.", code="storage_unavailable", retry_after=5)
