"""Outputs that are too long for their records: blobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0008"
down_revision = "r0007"


def upgrade() -> None:
    op.add_column("executions", sa.Column("output_blob", sa.String(64)))
    op.add_column("executions", sa.Column("output_size", sa.BigInteger()))
    large = sa.text("output_blob IS NOT NULL")
    op.create_index(
        "ix_executions_output_blob", "executions", ["output_blob"], sqlite_where=large, postgresql_where=large
    )
