"""The first tables: deployments and their versions, executions with events and logs, tokens, options."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None

SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _deployments()
    _versions()
    _executions()
    _executions_indexes()
    _events()
    _logs()
    _tokens()
    _options()


def _partial(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(name, table, columns, unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _deployments() -> None:
    op.create_table(
        "deployments",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("owner", sa.String(63), nullable=False),
        sa.Column("current_id", sa.String(32)),
        sa.Column("newest_id", sa.String(32), nullable=False),
        sa.Column("versions", sa.Integer(), nullable=False),
        sa.Column("floor", sa.Integer(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("updated", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.BigInteger()),
        sa.Column("cleared", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_deployments"),
    )
    _partial("uq_deployments_living_name", "deployments", ["name"], "deleted IS NULL", unique=True)
    where = "deleted IS NOT NULL AND cleared IS NULL"
    _partial("ix_deployments_uncleared", "deployments", ["deleted"], where)


def _versions() -> None:
    op.create_table(
        "versions",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("deployment_id", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(32)),
        sa.Column("build", sa.String(36)),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("context", sa.String(64)),
        sa.Column("context_for", sa.String(32)),
        sa.Column("context_keys", sa.Text(), nullable=False),
        sa.Column("lock", sa.String(64)),
        sa.Column("environment", sa.String(255)),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("packages", sa.Text(), nullable=False),
        sa.Column("requirements", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["deployment_id"], ["deployments.id"], name="fk_versions_deployment_id"),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.UniqueConstraint("deployment_id", "number", name="uq_versions_deployment_id_number"),
    )
    for column in ("code", "context", "lock", "environment"):
        op.create_index(f"ix_versions_{column}", "versions", [column])


def _executions() -> None:
    op.create_table(
        "executions",
        sa.Column("seq", SERIAL, nullable=False),
        sa.Column("uuid", sa.String(36), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("status", sa.String(9), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("cancelling", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("started", sa.BigInteger()),
        sa.Column("ended", sa.BigInteger()),
        sa.Column("expires", sa.BigInteger()),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("owner", sa.String(63), nullable=False),
        sa.Column("queue", sa.String(16), nullable=False),
        sa.Column("waits_for", sa.String(36)),
        sa.Column("deployment", sa.String(63)),
        sa.Column("deployment_id", sa.String(32)),
        sa.Column("deployment_owner", sa.String(63)),
        sa.Column("version", sa.Integer()),
        sa.Column("version_id", sa.String(32)),
        sa.Column("spot", sa.String(255)),
        sa.Column("reason", sa.String(32)),
        sa.Column("logs_truncated", sa.Boolean(), nullable=False),
        sa.Column("timings", sa.Text()),
        sa.Column("usage", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("output", sa.Text()),
        sa.Column("args", sa.Text()),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_executions_version_id"),
        sa.PrimaryKeyConstraint("seq", name="pk_executions"),
        sa.UniqueConstraint("uuid", name="uq_executions_uuid"),
    )


def _executions_indexes() -> None:
    op.create_index("ix_executions_created", "executions", ["created"])
    for column in ("owner", "deployment_owner", "deployment"):
        op.create_index(f"ix_executions_{column}", "executions", [column, "created"])
    _partial("ix_executions_open", "executions", ["created"], "ended IS NULL")
    _partial("ix_executions_closed", "executions", ["status", "created"], "ended IS NOT NULL")
    _partial("ix_executions_reason", "executions", ["reason", "created"], "reason IS NOT NULL")
    _partial("ix_executions_waits_for", "executions", ["waits_for"], "waits_for IS NOT NULL")


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("seq", SERIAL, nullable=False),
        sa.Column("execution", sa.String(36), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("detail", sa.Text()),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
    )
    op.create_index("ix_events_execution", "events", ["execution"])


def _logs() -> None:
    op.create_table(
        "logs",
        sa.Column("execution", sa.String(36), nullable=False),
        sa.Column("text", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("execution", name="pk_logs"),
    )


def _tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("spots", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tokens"),
        sa.UniqueConstraint("hash", name="uq_tokens_hash"),
    )


def _options() -> None:
    op.create_table(
        "options",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_options"),
    )
