"""Pauses between attempts; which execution is another one's second go; idempotency keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"


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
