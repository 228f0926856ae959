"""Dead letters, and a view that tells readers where a stream is stopped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("projection", sa.Text, primary_key=True),
        sa.Column("stream_id", sa.Text(collation="C"), primary_key=True),
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="1"),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("retry_at", sa.DateTime(timezone=True)),
        sa.Column("settled_at", sa.DateTime(timezone=True)),
        sa.Column("skipped_by", sa.Text),
        sa.Column("skipped_because", sa.Text),
        sa.CheckConstraint(
            "state IN ('passed', 'open', 'skipped', 'resolved')", name="ck_dead_letters_state"
        ),
    )
    op.create_index(
        "ix_dead_letters_heeded",
        "dead_letters",
        ["projection", "stream_id"],
        postgresql_where=sa.text("state IN ('open', 'skipped')"),
    )
    op.execute("""
        CREATE VIEW blocked_streams AS
        SELECT projection, stream_id, event_id AS stopped_before, first_at AS stopped_since,
               event_type, reason, error, attempts, last_at AS last_tried_at, retry_at
        FROM dead_letters WHERE state = 'open'""")


def downgrade() -> None:
    op.execute("DROP VIEW blocked_streams")
    op.drop_table("dead_letters")
