"""A module that declares two projections."""

from __future__ import annotations

from tests.tallies import Tally, tallies
from worker import Event, Projection

first = tallies()
second = Projection("others", table=Tally)


@second.on("add")
def add(row: Tally, event: Event) -> None:
    """Add nothing."""
