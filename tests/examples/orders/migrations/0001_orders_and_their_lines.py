"""orders and their lines"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "a9fce33a9c06"
down_revision = None
branch_labels = ("tests.examples.orders",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("customer", sa.String(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("total_cents", sa.Integer(), nullable=False),
        sa.Column("amounts", postgresql.JSONB(), nullable=False),
        sa.Column("stream_id", sa.Text(), nullable=False),
        sa.Column("last_event_id", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("first_event_id", sa.Text(), nullable=True),
        sa.Column("generation", sa.Integer(), server_default="0", nullable=False),
        sa.Column("version", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("stream_id"),
    )
    op.create_table(
        "order_lines",
        sa.Column("stream_id", sa.Text(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("price_cents", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["stream_id"], ["orders.stream_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("stream_id", "sku"),
    )


def downgrade() -> None:
    op.drop_table("order_lines")
    op.drop_table("orders")
