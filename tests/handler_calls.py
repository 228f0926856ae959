"""Counting how often a projection's handlers are called, by whichever projector of this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from worker import Event, Projection
from worker.fold import Handler


@dataclass
class HandlerCalls:
    """How many there were so far."""

    number: int = 0

    def count(self, handler: Handler, row: Any, event: Event) -> None:
        self.number += 1
        handler(row, event)


@contextmanager
def handler_calls(projection: Projection) -> Iterator[HandlerCalls]:
    """Count the calls of this projection's handlers meanwhile."""
    calls, handlers = HandlerCalls(), dict(projection._handlers)
    projection._handlers.update({t: partial(calls.count, handler) for t, handler in handlers.items()})
    try:
        yield calls
    finally:
        projection._handlers.update(handlers)
