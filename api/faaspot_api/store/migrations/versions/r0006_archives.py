"""Which spot has brought which packed environment, and how large it is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0006"
down_revision = "r0005"


def upgrade() -> None:
    op.create_table(
        "archives",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("spot", sa.String(63), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("brought", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_archives"),
    )
    op.create_index("ix_archives_spot", "archives", ["spot"])
