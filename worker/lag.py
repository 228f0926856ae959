"""How many events of a log wait behind a place in it."""

from __future__ import annotations

from dataclasses import dataclass

from worker.events import EventId
from worker.log import Log, PageRequest

_COUNTED_AT_MOST = 1_000
_PAGES_AT_MOST = 20


@dataclass(frozen=True, slots=True)
class Waiting:
    """Events of projected types after a place in a log, and the first of them.

    If ``counted`` is false there may be more of them.
    """

    events: int
    counted: bool
    oldest: EventId | None


async def count_waiting(logs: Log, stream_id: str, after: str | None) -> Waiting:
    """Count the projected events after this one, None for all, and give up where there are many."""
    events, oldest, start = 0, None, after
    for _ in range(_PAGES_AT_MOST):
        [page] = await logs.read([PageRequest(stream_id, start)])
        events += len(page.events)
        oldest = oldest or (page.events[0].id if page.events else None)
        if page.ended or page.last_id is None:
            return Waiting(events, True, oldest)
        if events >= _COUNTED_AT_MOST:
            break
        start = page.last_id
    return Waiting(events, False, oldest)
