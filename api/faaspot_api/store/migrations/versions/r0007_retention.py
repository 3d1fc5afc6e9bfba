"""The ends of each deployment in order, for what deletes the oldest of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0007"
down_revision = "r0006"


def upgrade() -> None:
    ended = sa.text("ended IS NOT NULL")
    op.create_index(
        "ix_executions_ends",
        "executions",
        ["deployment_id", "kind", "ended"],
        sqlite_where=ended,
        postgresql_where=ended,
    )
