"""The tables of the strategies read model."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, Boolean, Index, Integer, Numeric, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from worker import ProjectedRow

DEFAULT_NAME = "New Conversation"


class Base(DeclarativeBase):
    """The metadata that migrations compare with the database."""


class StreamProjection(ProjectedRow, Base):
    """One conversation: what a list of conversations and a strategy graph show.

    ``wdk_strategy_id`` and ``is_saved`` follow from the claims of all streams and are computed by
    `projections.claims`. The ``own_is_saved`` columns are what that is computed from: the last value that
    this stream's own events set, and the id of the event that set it.
    """

    __tablename__ = "stream_projections"

    name: Mapped[str] = mapped_column(Text, default=DEFAULT_NAME, server_default=DEFAULT_NAME)
    record_type: Mapped[str | None] = mapped_column(Text)
    wdk_strategy_id: Mapped[int | None] = mapped_column(BigInteger)
    is_saved: Mapped[bool] = mapped_column(Boolean, default=False, server_default=text("false"))
    model_id: Mapped[str | None] = mapped_column(Text)
    message_count: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    step_count: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    plan: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict, server_default="{}")
    steps: Mapped[list[Any]] = mapped_column(JSONB, default=list, server_default="[]")
    root_step_id: Mapped[str | None] = mapped_column(Text)
    own_is_saved: Mapped[bool | None] = mapped_column(Boolean)
    own_is_saved_ms: Mapped[Decimal | None] = mapped_column(Numeric(20, 0))
    own_is_saved_seq: Mapped[Decimal | None] = mapped_column(Numeric(20, 0))

    __table_args__ = (
        Index(
            "ix_proj_wdk",
            "wdk_strategy_id",
            unique=True,
            postgresql_where=text("wdk_strategy_id IS NOT NULL"),
        ),
    )


class StrategyClaim(Base):
    """One claim on a WDK strategy: by which stream, from which of its events on, until which.

    ``until`` is the stream's own next claim or clear, null while there is none. That another stream took the
    strategy is not written here, since it follows from that stream's claim.
    """

    __tablename__ = "strategy_claims"

    stream_id: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    event_ms: Mapped[Decimal] = mapped_column(Numeric(20, 0), primary_key=True)
    event_seq: Mapped[Decimal] = mapped_column(Numeric(20, 0), primary_key=True)
    wdk_strategy_id: Mapped[int] = mapped_column(BigInteger)
    until_ms: Mapped[Decimal | None] = mapped_column(Numeric(20, 0))
    until_seq: Mapped[Decimal | None] = mapped_column(Numeric(20, 0))

    __table_args__ = (
        Index("ix_claims_history", "wdk_strategy_id", "event_ms", "event_seq", "stream_id", unique=True),
    )
