"""What is wrong with child rows as they are declared, each told in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import ARRAY, CHAR, ForeignKey, Integer, Numeric, Text
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.orders import orders
from worker import ProjectedRow, Projection
from worker.errors import DeclarationError


class Base(DeclarativeBase):
    """The metadata of these tables alone."""


class Order(ProjectedRow, Base):
    """The rows that child rows belong to."""

    __tablename__ = "orders"

    status: Mapped[str] = mapped_column(Text, default="new")


def lines(to: str = "orders.stream_id", ondelete: str | None = "CASCADE", **columns: Any) -> type[Any]:
    """A model of child rows with these columns besides stream_id."""
    reference = mapped_column(ForeignKey(to, ondelete=ondelete), primary_key=True)
    namespace = {"__tablename__": f"lines_{len(Base.metadata.tables)}", "stream_id": reference, **columns}
    return type(f"Lines{len(Base.metadata.tables)}", (Base,), namespace)


def key(kind: Any = Text) -> Any:
    return mapped_column(kind, primary_key=True)


LINES = lines(sku=key())


@pytest.mark.parametrize(
    ("children", "told"),
    [
        ({"lines": 7}, "a SQLAlchemy model is needed, not 7."),
        ({"lines": lines()}, "must be stream_id and one column more, in this order."),
        ({"lines": lines(a=key(), b=key())}, "must be stream_id and one column more, in this order."),
        ({"lines": lines(a=key(Numeric))}, "must be text or an integer, not Numeric()."),
        ({"lines": lines(a=key(CHAR(5)))}, "may be equal to the database where it is not to Python"),
        ({"lines": lines(a=key(CITEXT))}, "may be equal to the database where it is not to Python"),
        ({"lines": lines(a=key(Text(collation="de-x-icu")))}, "make it Text."),
        ({"lines": lines(ondelete=None, a=key())}, "ForeignKey('orders.stream_id', ondelete='CASCADE')"),
        ({"lines": lines(ondelete="SET NULL", a=key())}, "so that child rows go with their row."),
        ({"lines": lines(a=key(), b=mapped_column(ARRAY(Integer)))}, "columns ['b'] are arrays; use jsonb"),
        (
            {"lines": lines(a=key(), b=mapped_column("c", Integer, key="b"))},
            "columns ['b'] have another name",
        ),
        ({"status": LINES}, "choose a name that is an identifier and no column."),
        ({"facts": LINES}, "choose a name that is an identifier and no column."),
        ({"order-lines": LINES}, "choose a name that is an identifier and no column."),
        ({"lines": LINES, "more": LINES}, "['lines_1'] are child rows twice; name them once."),
    ],
)
def test_a_wrong_declaration_is_told_in_a_sentence(children: dict[str, Any], told: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        Projection("orders", table=Order, children=children)
    assert told in str(raised.value)
    assert str(raised.value).startswith("Projection orders: ")


def test_the_defaults_of_child_rows_are_known() -> None:
    declared = orders().children["lines"]
    assert (declared.key, declared.key_type) == ("sku", str)
    assert declared.columns == ("quantity", "price", "tags")
    assert "quantity" not in declared.defaults
