"""A small projection with child rows for tests: orders and their lines."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, ClassVar

from hypothesis import strategies as st
from sqlalchemy import ForeignKey, Integer, Numeric, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.projecting import Replica
from tests.rights import OWNER, engine_as
from worker import ChildRows, Event, ProjectedRow, Projection

SKUS = st.sampled_from("xyz")
_COLUMNS = st.fixed_dictionaries({"quantity": st.integers(0, 9)})
PAYLOADS: dict[str, st.SearchStrategy[Any]] = {
    "put": st.fixed_dictionaries({"sku": SKUS, "columns": _COLUMNS}),
    "change": st.fixed_dictionaries({"sku": SKUS, "columns": _COLUMNS}),
    "delete": st.fixed_dictionaries({"sku": SKUS}),
    "clear": st.just({}),
    "note": st.fixed_dictionaries({"number": st.integers(0, 3)}),
    "fail": st.just({}),
}
"""Events of an order, of which some fail."""

Lines = dict[str, dict[str, Any]]
"""Lines of one order, as a reader sees them, by their key."""


class Base(DeclarativeBase):
    """The metadata of these tables alone."""


class Order(ProjectedRow, Base):
    """One order."""

    __tablename__ = "orders"

    status: Mapped[str] = mapped_column(Text, default="new")
    lines: ClassVar[ChildRows]
    notes: ClassVar[ChildRows]


class OrderLine(Base):
    """What is ordered of one article."""

    __tablename__ = "order_lines"

    stream_id: Mapped[str] = mapped_column(
        ForeignKey("orders.stream_id", ondelete="CASCADE"), primary_key=True
    )
    sku: Mapped[str] = mapped_column(Text, primary_key=True)
    quantity: Mapped[int] = mapped_column(Integer)
    price: Mapped[Decimal | None] = mapped_column(Numeric(10, 2))
    tags: Mapped[list[Any]] = mapped_column(JSONB, default=list)


class OrderNote(Base):
    """Something that was noted; it has no columns but its key."""

    __tablename__ = "order_notes"

    stream_id: Mapped[str] = mapped_column(
        ForeignKey("orders.stream_id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


def orders(version: int = 1) -> Projection:
    """A new projection of the tables, with its handlers."""
    projection = Projection(
        "orders", table=Order, version=version, children={"lines": OrderLine, "notes": OrderNote}
    )

    @projection.on("put")
    def put(row: Order, event: Event) -> None:
        row.lines.put(event.data["sku"], **event.data["columns"])

    @projection.on("change")
    def change(row: Order, event: Event) -> None:
        row.lines.change(event.data["sku"], **event.data["columns"])

    @projection.on("delete")
    def delete(row: Order, event: Event) -> None:
        row.lines.delete(event.data["sku"])

    @projection.on("clear")
    def clear(row: Order, event: Event) -> None:
        row.lines.clear()
        row.notes.clear()

    @projection.on("note")
    def note(row: Order, event: Event) -> None:
        row.notes.put(event.data["number"])

    @projection.on("assign")
    def assign(row: Any, event: Event) -> None:
        row.lines = {}

    @projection.on("remark")
    def remark(row: Any, event: Event) -> None:
        row.remarks.append("text")

    @projection.on("fail")
    def fail(row: Order, event: Event) -> None:
        row.lines.put("spoiled", quantity=-1)
        row.lines.clear()
        raise ZeroDivisionError("broken")

    return projection


async def create_tables(engine: AsyncEngine) -> None:
    """The tables, as a migration would make them."""
    async with engine_as(engine, OWNER).begin() as connection:
        await connection.run_sync(Base.metadata.create_all)


async def lines_of(world: Replica, stream_id: str) -> Lines:
    """The lines of an order, as any reader sees them now."""
    query = OrderLine.__table__.select().where(OrderLine.stream_id == stream_id)
    async with world.engine.connect() as connection:
        rows = (await connection.execute(query)).mappings().all()
    return {row["sku"]: {c: row[c] for c in ("quantity", "price", "tags")} for row in rows}
