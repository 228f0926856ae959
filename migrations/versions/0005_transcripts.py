"""Transcripts: one row a conversation and one a message, with the words of its content."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_WORDS = "to_tsvector('english', left(content, 100000))"


def upgrade() -> None:
    op.create_table(
        "stream_transcripts",
        sa.Column("message_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("open_turn", JSONB, nullable=False, server_default="{}"),
        sa.Column("uncounted", JSONB, nullable=False, server_default="{}"),
        sa.Column("stream_id", sa.Text, primary_key=True),
        sa.Column("last_event_id", sa.Text),
        sa.Column("updated_at", sa.DateTime(timezone=True)),
        sa.Column("first_event_id", sa.Text),
        sa.Column("generation", sa.Integer, nullable=False, server_default="0"),
        sa.Column("version", sa.Integer, nullable=False, server_default="0"),
    )
    # Written anew by every event, as rows of stream_projections are.
    op.execute("ALTER TABLE stream_transcripts SET (fillfactor = 50)")
    op.create_table(
        "stream_messages",
        sa.Column(
            "stream_id",
            sa.Text,
            sa.ForeignKey("stream_transcripts.stream_id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("content", sa.Text),
        sa.Column("message_id", sa.Text),
        sa.Column("timestamp", sa.DateTime(timezone=True)),
        sa.Column("model_id", sa.Text),
        sa.Column("tool_calls", JSONB),
        sa.Column("citations", JSONB),
        sa.Column("planning_artifacts", JSONB),
        sa.Column("reasoning", sa.Text),
        sa.Column("sub_kani_activity", JSONB),
        sa.Column("token_usage", JSONB),
        sa.Column("unusual", JSONB),
        sa.Column("content_words", TSVECTOR, sa.Computed(_WORDS, persisted=True)),
    )
    op.create_index("ix_stream_messages_words", "stream_messages", ["content_words"], postgresql_using="gin")


def downgrade() -> None:
    op.drop_table("stream_messages")
    op.drop_table("stream_transcripts")
