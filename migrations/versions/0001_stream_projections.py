"""The read model of research chats: one row a conversation, and the history of claims on WDK strategies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "stream_projections",
        sa.Column("stream_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, server_default="New Conversation"),
        sa.Column("record_type", sa.Text),
        sa.Column("wdk_strategy_id", sa.BigInteger),
        sa.Column("is_saved", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("model_id", sa.Text),
        sa.Column("message_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("step_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("plan", JSONB, nullable=False, server_default="{}"),
        sa.Column("steps", JSONB, nullable=False, server_default="[]"),
        sa.Column("root_step_id", sa.Text),
        sa.Column("last_event_id", sa.Text),
        sa.Column("updated_at", sa.DateTime(timezone=True)),
        sa.Column("first_event_id", sa.Text),
        sa.Column("generation", sa.Integer, nullable=False, server_default="0"),
        sa.Column("version", sa.Integer, nullable=False, server_default="0"),
        sa.Column("own_is_saved", sa.Boolean),
        sa.Column("own_is_saved_ms", sa.Numeric(20, 0)),
        sa.Column("own_is_saved_seq", sa.Numeric(20, 0)),
    )
    op.create_index(
        "ix_proj_wdk",
        "stream_projections",
        ["wdk_strategy_id"],
        unique=True,
        postgresql_where=sa.text("wdk_strategy_id IS NOT NULL"),
    )
    op.create_table(
        "strategy_claims",
        sa.Column("stream_id", sa.Text(collation="C"), primary_key=True),
        sa.Column("event_ms", sa.Numeric(20, 0), primary_key=True),
        sa.Column("event_seq", sa.Numeric(20, 0), primary_key=True),
        sa.Column("wdk_strategy_id", sa.BigInteger, nullable=False),
        sa.Column("until_ms", sa.Numeric(20, 0)),
        sa.Column("until_seq", sa.Numeric(20, 0)),
    )
    op.create_index(
        "ix_claims_history",
        "strategy_claims",
        ["wdk_strategy_id", "event_ms", "event_seq", "stream_id"],
        unique=True,
    )


def downgrade() -> None:
    op.drop_table("strategy_claims")
    op.drop_table("stream_projections")
