"""The tables. `migrations/` makes them; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Serial = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only in a column that is exactly INTEGER PRIMARY KEY."""

deployments = Table(
    "deployments",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("owner", String(63), nullable=False),
    Column("current_id", String(32)),
    Column("newest_id", String(32), nullable=False),
    Column("versions", Integer, nullable=False),
    Column("floor", Integer, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column("deleted", BigInteger),
    # When the blobs that only a deleted one needed were removed; until then that is still to do.
    Column("cleared", BigInteger),
)
_living = deployments.c.deleted.is_(None)
Index("uq_deployments_living_name", deployments.c.name, unique=True, sqlite_where=_living, postgresql_where=_living)
_uncleared = (deployments.c.deleted.is_not(None)) & (deployments.c.cleared.is_(None))
Index("ix_deployments_uncleared", deployments.c.deleted, sqlite_where=_uncleared, postgresql_where=_uncleared)

versions = Table(
    "versions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("deployment_id", ForeignKey("deployments.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", String(32)),
    Column("build", String(36)),
    Column("code", String(64), nullable=False, index=True),
    Column("context", String(64), index=True),
    Column("context_for", String(32)),
    Column("context_keys", Text, nullable=False),
    Column("lock", String(64), index=True),
    Column("environment", String(255), index=True),
    Column("settings", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("packages", Text, nullable=False),
    Column("requirements", Text, nullable=False),
    Column("archive", String(64), index=True),
    UniqueConstraint("deployment_id", "number"),
)

executions = Table(
    "executions",
    metadata,
    Column("seq", Serial, primary_key=True),
    Column("uuid", String(36), nullable=False, unique=True),
    Column("kind", String(8), nullable=False),
    Column("status", String(9), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("token", String(64), nullable=False),
    Column("cancelling", Boolean, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("started", BigInteger),
    Column("ended", BigInteger),
    Column("expires", BigInteger),
    Column("name", String(63), nullable=False),
    Column("owner", String(63), nullable=False),
    Column("queue", String(16), nullable=False),
    Column("waits_for", String(36)),
    Column("deployment", String(63)),
    Column("deployment_id", String(32)),
    Column("deployment_owner", String(63)),
    Column("version", Integer),
    Column("version_id", ForeignKey("versions.id")),
    Column("spot", String(255)),
    Column("reason", String(32)),
    Column("logs_truncated", Boolean, nullable=False),
    Column("timings", Text),
    Column("usage", Text),
    # What can be megabytes stands last, so that SQLite reads the columns before it without following its pages.
    Column("error", Text),
    Column("output", Text),
    Column("args", Text),
    # Behind those, since a later release added it: nothing that reads many rows asks for it.
    Column("traceparent", String(55)),
    Column("output_blob", String(64)),
    Column("output_size", BigInteger),
    Column("args_blob", String(64)),
    Column("args_size", BigInteger),
)
_open = executions.c.ended.is_(None)
_closed = executions.c.ended.is_not(None)
_waits = executions.c.waits_for.is_not(None)
_failed = executions.c.reason.is_not(None)
_large = executions.c.output_blob.is_not(None)
Index("ix_executions_output_blob", executions.c.output_blob, sqlite_where=_large, postgresql_where=_large)
_given = executions.c.args_blob.is_not(None)
Index("ix_executions_args_blob", executions.c.args_blob, sqlite_where=_given, postgresql_where=_given)
Index("ix_executions_created", executions.c.created)
Index("ix_executions_owner", executions.c.owner, executions.c.created)
Index("ix_executions_deployment_owner", executions.c.deployment_owner, executions.c.created)
Index("ix_executions_deployment", executions.c.deployment, executions.c.created)
Index("ix_executions_open", executions.c.created, sqlite_where=_open, postgresql_where=_open)
Index(
    "ix_executions_closed",
    executions.c.status,
    executions.c.created,
    sqlite_where=_closed,
    postgresql_where=_closed,
)
Index(
    "ix_executions_ends",
    executions.c.deployment_id,
    executions.c.kind,
    executions.c.ended,
    sqlite_where=_closed,
    postgresql_where=_closed,
)
Index("ix_executions_reason", executions.c.reason, executions.c.created, sqlite_where=_failed, postgresql_where=_failed)
Index("ix_executions_waits_for", executions.c.waits_for, sqlite_where=_waits, postgresql_where=_waits)

events = Table(
    "events",
    metadata,
    Column("seq", Serial, primary_key=True),
    Column("execution", String(36), nullable=False, index=True),
    Column("at", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("what", String(16), nullable=False),
    Column("detail", Text),
)

logs = Table(
    "logs",
    metadata,
    Column("execution", String(36), primary_key=True),
    # Bytes: a log may hold NUL, which PostgreSQL's text cannot.
    Column("text", LargeBinary, nullable=False),
)

# What only few executions have stands beside them: a column added to a table comes behind its megabytes.

pauses = Table(
    "pauses",
    metadata,
    Column("execution", String(36), primary_key=True),
    Column("until", BigInteger, nullable=False),
)

reruns = Table(
    "reruns",
    metadata,
    Column("execution", String(36), primary_key=True),
    Column("of", String(36), nullable=False, index=True),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("owner", String(63), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("created", BigInteger, nullable=False, index=True),
    Column("executions", Text, nullable=False),
)

callbacks = Table(
    "callbacks",
    metadata,
    Column("execution", String(36), primary_key=True),
    Column("owner", String(63), nullable=False),
    Column("url", Text, nullable=False),
    Column("host", String(255), nullable=False),
    Column("status", String(9), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("due", BigInteger),
)
_untold = callbacks.c.status == "pending"
Index("ix_callbacks_due", callbacks.c.due, sqlite_where=_untold, postgresql_where=_untold)

callback_tries = Table(
    "callback_tries",
    metadata,
    Column("seq", Serial, primary_key=True),
    Column("execution", String(36), nullable=False, index=True),
    Column("at", BigInteger, nullable=False),
    Column("status", Integer),
    Column("error", Text),
    Column("ms", Integer, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("spots", Text, nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("created", BigInteger, nullable=False),
)

runtimes = Table(
    "runtimes",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("type", String(16), nullable=False),
    Column("config", Text, nullable=False),
    Column("wraps", String(63)),
    Column("lazy", Boolean, nullable=False),
    Column("external", Boolean, nullable=False),
    Column("wanted", String(8), nullable=False),
    Column("asked", BigInteger, nullable=False),
)

spots = Table(
    "spots",
    metadata,
    Column("ip", String(45), primary_key=True),
    Column("joined", Boolean, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("leaving", Boolean, nullable=False),
    Column("least", Integer),
    Column("most", Integer),
)

archives = Table(
    "archives",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("spot", String(63), nullable=False, index=True),
    Column("size", BigInteger, nullable=False),
    Column("brought", BigInteger, nullable=False),
)

options = Table(
    "options",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("value", Text, nullable=False),
)
