"""Args that are too long for their records: blobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0009"
down_revision = "r0008"


def upgrade() -> None:
    op.add_column("executions", sa.Column("args_blob", sa.String(64)))
    op.add_column("executions", sa.Column("args_size", sa.BigInteger()))
    large = sa.text("args_blob IS NOT NULL")
    op.create_index("ix_executions_args_blob", "executions", ["args_blob"], sqlite_where=large, postgresql_where=large)
