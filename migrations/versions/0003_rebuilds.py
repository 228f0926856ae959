"""Rebuilds of many streams, cut into chunks that processes share and that outlive them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rebuilds",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("projection", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("scope", JSONB, nullable=False),
        sa.Column("streams", sa.Integer, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("given_up", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.create_index(
        "ix_rebuilds_unfinished",
        "rebuilds",
        ["projection"],
        unique=True,
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "rebuild_chunks",
        sa.Column(
            "rebuild_id", sa.BigInteger, sa.ForeignKey("rebuilds.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("stream_ids", ARRAY(sa.Text), nullable=False),
        sa.Column("streams", sa.Integer, nullable=False),
        sa.Column("taken_by", sa.Text),
        sa.Column("taken_until", sa.DateTime(timezone=True)),
        sa.Column("times_taken", sa.Integer, nullable=False, server_default="0"),
        sa.Column("done_at", sa.DateTime(timezone=True)),
        sa.Column("events", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("refusals", JSONB, nullable=False, server_default="[]"),
    )
    op.create_index(
        "ix_rebuild_chunks_undone",
        "rebuild_chunks",
        ["rebuild_id", "number"],
        postgresql_where=sa.text("done_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("rebuild_chunks")
    op.drop_table("rebuilds")
