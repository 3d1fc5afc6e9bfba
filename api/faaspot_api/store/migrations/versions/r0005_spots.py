"""What is wanted of spots, and which of them are on other hosts; packed environments."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0005"
down_revision = "r0004"


def upgrade() -> None:
    op.create_table(
        "spots",
        sa.Column("ip", sa.String(45), nullable=False),
        sa.Column("joined", sa.Boolean(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column("leaving", sa.Boolean(), nullable=False),
        sa.Column("least", sa.Integer()),
        sa.Column("most", sa.Integer()),
        sa.PrimaryKeyConstraint("ip", name="pk_spots"),
    )
    op.add_column("versions", sa.Column("archive", sa.String(64)))
    op.create_index("ix_versions_archive", "versions", ["archive"])
