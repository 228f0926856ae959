"""The tables of the read models: strategies, and transcripts."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    Computed,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    Numeric,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from worker import ChildRows, ProjectedRow

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


class StreamTranscript(ProjectedRow, Base):
    """One conversation as its transcript goes on; the messages themselves are `StreamMessage` rows.

    ``open_turn`` is what the turn that is going on has gathered, ``uncounted`` by role the places of messages
    without token usage: `projections.stored_turn` knows what is in them.
    """

    __tablename__ = "stream_transcripts"

    message_count: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    open_turn: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict, server_default="{}")
    uncounted: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict, server_default="{}")
    messages: ClassVar[ChildRows]


SEARCHED_CHARACTERS = 100_000
"""How much of a content is searched: what PostgreSQL makes of more may be more than it can hold."""

SEARCH_LANGUAGE = "english"
"""Which words count as one when contents are searched, such as *kinase* and *kinases*."""


class StreamMessage(Base):
    """One message of a conversation, at its place from 0 on; `projections.projected_messages` reads it back.

    A column is null where the message has no such field. What a column cannot hold, as a content that is no
    text, stands in ``unusual`` by the field's name.
    """

    __tablename__ = "stream_messages"

    stream_id: Mapped[str] = mapped_column(
        ForeignKey("stream_transcripts.stream_id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    role: Mapped[str] = mapped_column(Text)
    content: Mapped[str | None] = mapped_column(Text)
    message_id: Mapped[str | None] = mapped_column(Text)
    timestamp: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    model_id: Mapped[str | None] = mapped_column(Text)
    tool_calls: Mapped[list[Any] | None] = mapped_column(JSONB)
    citations: Mapped[list[Any] | None] = mapped_column(JSONB)
    planning_artifacts: Mapped[list[Any] | None] = mapped_column(JSONB)
    reasoning: Mapped[str | None] = mapped_column(Text)
    sub_kani_activity: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    token_usage: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    unusual: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    content_words: Mapped[Any] = mapped_column(
        TSVECTOR,
        Computed(f"to_tsvector('{SEARCH_LANGUAGE}', left(content, {SEARCHED_CHARACTERS}))", persisted=True),
    )

    __table_args__ = (Index("ix_stream_messages_words", "content_words", postgresql_using="gin"),)


MESSAGE_COLUMNS: dict[str, tuple[str, bool]] = {
    "content": ("content", True),
    "messageId": ("message_id", True),
    "modelId": ("model_id", True),
    "toolCalls": ("tool_calls", False),
    "citations": ("citations", False),
    "planningArtifacts": ("planning_artifacts", False),
    "reasoning": ("reasoning", True),
    "subKaniActivity": ("sub_kani_activity", False),
    "tokenUsage": ("token_usage", False),
}
"""Of each field of a message the column that holds it, and whether it holds text rather than JSON."""
