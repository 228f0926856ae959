"""The tables in which campaigns are remembered; see `worker.campaign`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Text,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from worker.letters import WorkerTables


class RebuildRecord(WorkerTables):
    """A campaign. One of each projection is unfinished at most; one that was given up is finished, too."""

    __tablename__ = "rebuilds"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    projection: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(Integer)
    scope: Mapped[Any] = mapped_column(JSONB)
    streams: Mapped[int] = mapped_column(Integer)
    started_at: Mapped[Any] = mapped_column(DateTime(timezone=True), server_default=func.now())
    finished_at: Mapped[Any | None] = mapped_column(DateTime(timezone=True))
    given_up: Mapped[bool] = mapped_column(Boolean, server_default=false())

    __table_args__ = (
        Index(
            "ix_rebuilds_unfinished",
            "projection",
            unique=True,
            postgresql_where=text("finished_at IS NULL"),
        ),
    )


class ChunkRecord(WorkerTables):
    """A share of a campaign. Whoever took it has it until ``taken_until``, by the database's clock."""

    __tablename__ = "rebuild_chunks"

    rebuild_id: Mapped[int] = mapped_column(
        ForeignKey(RebuildRecord.id, ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    stream_ids: Mapped[list[str]] = mapped_column(ARRAY(Text))
    streams: Mapped[int] = mapped_column(Integer)
    taken_by: Mapped[str | None] = mapped_column(Text)
    taken_until: Mapped[Any | None] = mapped_column(DateTime(timezone=True))
    times_taken: Mapped[int] = mapped_column(Integer, server_default="0")
    done_at: Mapped[Any | None] = mapped_column(DateTime(timezone=True))
    events: Mapped[int] = mapped_column(BigInteger, server_default="0")
    refusals: Mapped[Any] = mapped_column(JSONB, server_default="[]")

    __table_args__ = (
        Index(
            "ix_rebuild_chunks_undone",
            "rebuild_id",
            "number",
            postgresql_where=text("done_at IS NULL"),
        ),
    )
