"""A small projection for tests: it adds up numbers and keeps them in a list."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Integer, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from worker import Event, EventId, ProjectedRow, Projection, RejectedEventError, Remark


class Base(DeclarativeBase):
    """The metadata of this table alone."""


class Tally(ProjectedRow, Base):
    """What was added to a stream."""

    __tablename__ = "tallies"

    total: Mapped[int] = mapped_column(Integer, default=0)
    note: Mapped[str | None] = mapped_column(Text)
    numbers: Mapped[list[Any]] = mapped_column(JSONB, default=list)


MAKE_TABLE = """
    CREATE TABLE tallies (
        stream_id text COLLATE "C" PRIMARY KEY, last_event_id text, updated_at timestamptz,
        first_event_id text, generation integer NOT NULL DEFAULT 0, version integer NOT NULL DEFAULT 0,
        total integer NOT NULL DEFAULT 0, note text, numbers jsonb NOT NULL DEFAULT '[]')"""


def tallies(name: str = "tallies", *, logs: str = "stream:", streams: str = "*") -> Projection:
    """A new projection of the table, with its handlers."""
    projection = Projection(name, table=Tally, logs=logs, streams=streams)

    @projection.on("add")
    def add(row: Tally, event: Event) -> None:
        row.total += event.data["n"]
        row.numbers.append(event.data["n"])

    @projection.on("put")
    def put(row: Tally, event: Event) -> None:
        row.numbers = event.data["numbers"]

    @projection.on("tell")
    def tell(row: Tally, event: Event) -> None:
        row.facts.append(event.data["n"])
        row.remarks.append(Remark(event.id, "told", str(event.data["n"])))

    @projection.on("refuse")
    def refuse(row: Tally, event: Event) -> None:
        spoil(row, event)
        raise RejectedEventError("not wanted")

    @projection.on("fail")
    def fail(row: Tally, event: Event) -> None:
        spoil(row, event)
        raise ZeroDivisionError("broken")

    return projection


def spoil(row: Tally, event: Event) -> None:
    """Change everything of a row."""
    row.total = -1
    row.note = "spoiled"
    row.numbers.append("spoiled")
    row.facts.append("spoiled")
    row.remarks.append(Remark(event.id, "spoiled", ""))


def event(number: int, event_type: str, **data: Any) -> Event:
    return Event(EventId(number, 0), event_type, data)


def added(number: int, n: int = 1) -> Event:
    return event(number, "add", n=n)
