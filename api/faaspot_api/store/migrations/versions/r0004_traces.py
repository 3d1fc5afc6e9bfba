"""The trace that a run belongs to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"


def upgrade() -> None:
    op.add_column("executions", sa.Column("traceparent", sa.String(55)))
