"""Bringing a database to the tables of this release, at the start of the platform."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import inspect, text

from faaspot_api.store.engine import BadDatabaseError, Store, Transaction, hold

HEAD = "r0009"
"""The newest revision in `migrations/versions`; a test holds the two together."""

PLACE = Path(__file__).parent / "migrations"
WAIT_SECONDS = 120.0
_LOCK = 0x6661_6172


def migrate(url: str) -> bool:
    """Make or renew the tables; True if there was something to do.

    Where several processes start at once, one does it and the others wait for it. It is one transaction: a migration
    that is killed leaves the database as it was. Raises BadDatabaseError for one that a newer release has written.
    """
    store = Store(url, busy_seconds=WAIT_SECONDS)
    try:
        with store.read() as transaction:
            if revision(transaction) == HEAD:
                return False
        with store.write() as transaction:
            return _migrate(transaction)
    finally:
        store.close()


def _migrate(transaction: Transaction) -> bool:
    hold(transaction, _LOCK)
    if revision(transaction) == HEAD:
        return False
    upgrade(transaction, "head")
    return True


def upgrade(transaction: Transaction, wanted: str) -> None:
    """Bring the tables to a revision. Raises BadDatabaseError for one that this release does not know."""
    # Only here: importing it takes longer than the whole start needs when there is nothing to do.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    if transaction.dialect.name == "postgresql":
        transaction.execute(text("SET LOCAL statement_timeout = 0"))
    config = Config(attributes={"connection": transaction})
    config.set_main_option("script_location", str(PLACE).replace("%", "%%"))
    try:
        command.upgrade(config, wanted)
    except CommandError as error:
        message = f"the database is of another release of faaspot ({error}); start that one, or give another database"
        raise BadDatabaseError(message) from error


def revision(transaction: Transaction) -> str | None:
    """Which revision the tables have; None for a database without ours."""
    if not inspect(transaction).has_table("alembic_version"):
        return None
    found: str | None = transaction.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return found
