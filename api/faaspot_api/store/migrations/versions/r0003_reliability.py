"""Pauses between attempts; which execution is another one's second go; idempotency keys; callbacks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"


SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "pauses",
        sa.Column("execution", sa.String(36), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("execution", name="pk_pauses"),
    )
    op.create_table(
        "reruns",
        sa.Column("execution", sa.String(36), nullable=False),
        sa.Column("of", sa.String(36), nullable=False),
        sa.PrimaryKeyConstraint("execution", name="pk_reruns"),
    )
    op.create_index("ix_reruns_of", "reruns", ["of"])
    op.create_table(
        "idempotency",
        sa.Column("owner", sa.String(63), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("executions", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name="pk_idempotency"),
    )
    op.create_index("ix_idempotency_created", "idempotency", ["created"])
    _callbacks()


def _callbacks() -> None:
    op.create_table(
        "callbacks",
        sa.Column("execution", sa.String(36), nullable=False),
        sa.Column("owner", sa.String(63), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("status", sa.String(9), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("due", sa.BigInteger()),
        sa.PrimaryKeyConstraint("execution", name="pk_callbacks"),
    )
    where = sa.text("status = 'pending'")
    op.create_index("ix_callbacks_due", "callbacks", ["due"], sqlite_where=where, postgresql_where=where)
    op.create_table(
        "callback_tries",
        sa.Column("seq", SERIAL, nullable=False),
        sa.Column("execution", sa.String(36), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("error", sa.Text()),
        sa.Column("ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_callback_tries"),
    )
    op.create_index("ix_callback_tries_execution", "callback_tries", ["execution"])
