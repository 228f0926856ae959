"""The tables: one row an order, one row a line."""

from typing import Any, ClassVar

from sqlalchemy import ForeignKey, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from worker import ChildRows, ProjectedRow


class Base(DeclarativeBase):
    pass


class Order(ProjectedRow, Base):
    __tablename__ = "orders"

    customer: Mapped[str | None]
    status: Mapped[str] = mapped_column(Text, default="open")
    total_cents: Mapped[int] = mapped_column(default=0)
    amounts: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict)  # what the total is made of
    lines: ClassVar[ChildRows]


class OrderLine(Base):
    __tablename__ = "order_lines"

    stream_id: Mapped[str] = mapped_column(
        ForeignKey("orders.stream_id", ondelete="CASCADE"), primary_key=True
    )
    sku: Mapped[str] = mapped_column(primary_key=True)
    quantity: Mapped[int]
    price_cents: Mapped[int]
