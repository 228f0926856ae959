"""A module that declares two projections."""

from __future__ import annotations

from tests.orders import Order
from tests.tallies import tallies
from worker import Event, Projection

first = tallies()
second = Projection("others", table=Order)


@second.on("add")
def add(row: Order, event: Event) -> None:
    """Add nothing."""
