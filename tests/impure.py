"""Handlers that break the laws of a fold, one law each, for tests of what finds them out."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from sqlalchemy import ForeignKey, Integer, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from worker import ChildRows, Event, EventId, ProjectedRow, Projection


class Base(DeclarativeBase):
    """The metadata of these tables alone."""


class Board(ProjectedRow, Base):
    """Anything."""

    __tablename__ = "boards"

    note: Mapped[str | None] = mapped_column(Text)
    count: Mapped[int] = mapped_column(Integer, default=0)
    table: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict)
    pins: ClassVar[ChildRows]


class Pin(Base):
    """A child row."""

    __tablename__ = "pins"

    stream_id: Mapped[str] = mapped_column(
        ForeignKey("boards.stream_id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    note: Mapped[str | None] = mapped_column(Text)


def boards() -> Projection:
    """A new projection with all the handlers."""
    projection = Projection("boards", table=Board, children={"pins": Pin})
    seen: list[Event] = []
    ids: set[EventId] = set()

    @projection.on("pure")
    def pure(row: Board, event: Event) -> None:
        row.count += 1

    @projection.on("clock")
    def clock(row: Board, event: Event) -> None:
        row.note = str(time.perf_counter_ns())

    @projection.on("global")
    def keep(row: Board, event: Event) -> None:
        seen.append(event)
        row.count = len(seen)

    @projection.on("known")
    def known(row: Board, event: Event) -> None:
        """It is filled by the first fold, so that all later ones agree."""
        ids.add(event.id)
        row.count = len(ids)

    @projection.on("payload")
    def payload(row: Board, event: Event) -> None:
        event.data["more"] = 1

    @projection.on("batch")
    def batch(row: Board, event: Event) -> None:
        row.pins.put(event.data["key"], note="again" if event.data["key"] in row.pins.writes else "first")

    @projection.on("order")
    def order(row: Board, event: Event) -> None:
        row.table[event.data["key"]] = 1
        row.note = ",".join(row.table)

    return projection
