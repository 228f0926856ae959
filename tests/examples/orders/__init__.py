"""Orders of a small shop: the projection, and how each event changes an order."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from worker import Event, Projection

from .models import Order, OrderLine

migrations = Path(__file__).parent / "migrations"

orders = Projection(
    "orders",
    table=Order,
    children={"lines": OrderLine},
    logs="orders:",  # the logs are orders:1, orders:2 and so on
    checkpoints={"order_paid"},  # durable at once, whatever else waits
)


@dataclass
class OrderPlaced:
    customer: str


@dataclass
class LineAdded:
    sku: str
    price_cents: int
    quantity: int = 1


@dataclass
class LineRemoved:
    sku: str


@orders.on("order_placed")
def order_placed(row: Order, payload: OrderPlaced) -> None:
    row.customer = payload.customer


@orders.upcast("line_added", version=1)  # until last year: {"sku": "tea", "price": "4.20"}
def price_in_cents(payload: dict[str, Any]) -> dict[str, Any]:
    price = Decimal(payload.pop("price"))
    return {**payload, "price_cents": int(price * 100)}


@orders.on("line_added")
def line_added(row: Order, payload: LineAdded) -> None:
    row.lines.put(payload.sku, quantity=payload.quantity, price_cents=payload.price_cents)
    row.amounts[payload.sku] = payload.quantity * payload.price_cents
    row.total_cents = sum(row.amounts.values())


@orders.on("line_removed")
def line_removed(row: Order, payload: LineRemoved) -> None:
    row.lines.delete(payload.sku)
    row.amounts.pop(payload.sku, None)
    row.total_cents = sum(row.amounts.values())


@orders.on("order_paid")
def order_paid(row: Order, event: Event) -> None:
    row.status = "paid"
