"""Pauses between attempts; which execution is another one's second go."""

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
